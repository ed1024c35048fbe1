// What the programs' options say.
#pragma once

#include <type_traits>

#include "artifact.h"

namespace internimage {

constexpr int kMostThreads = 1024;

// An option's value. Throws UserError where it is no number from `least` to `most`.
template <typename Number>
Number number(const std::string& option, const std::string& word, Number least, Number most) {
  std::istringstream text(word);
  Number value{};
  if (!(text >> value) || !text.eof() || !(least <= value && value <= most)) {
    fail(option, " must be a ", std::is_integral_v<Number> ? "whole " : "", "number from ", least, " to ", most, ", got ",
         quoted(word));
  }
  return value;
}

}  // namespace internimage
