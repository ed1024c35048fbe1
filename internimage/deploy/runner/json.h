// JSON as the manifest and safetensors hold it.
#pragma once

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace internimage {

struct Json {
  enum class Kind { null, boolean, number, string, array, object };

  Kind kind = Kind::null;
  double number = 0;  // of a boolean 0 or 1
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> members;

  const Json& operator[](const std::string& key) const {
    const auto found = members.find(key);
    if (found == members.end()) throw std::runtime_error("damaged: it has no \"" + key + "\"");
    return found->second;
  }
  bool has(const std::string& key) const { return members.count(key) > 0; }
  bool is_null() const { return kind == Kind::null; }
  int64_t integer() const { return static_cast<int64_t>(number); }
};

class JsonReader {
 public:
  // Throws std::runtime_error where the text is no JSON.
  static Json read(const std::string& text) {
    JsonReader reader(text);
    Json value = reader.value();
    reader.skip_spaces();
    if (reader.place_ != text.size()) reader.fail();
    return value;
  }

 private:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json value() {
    skip_spaces();
    Json json;
    const char first = peek();
    if (first == '{' || first == '[') {
      json.kind = first == '{' ? Json::Kind::object : Json::Kind::array;
      const char last = first == '{' ? '}' : ']';
      ++place_;
      for (skip_spaces(); peek() != last; skip_spaces()) {
        if (first == '{') {
          const std::string key = string();
          expect(':');
          json.members[key] = value();
        } else {
          json.items.push_back(value());
        }
        skip_spaces();
        if (peek() != last) expect(',');
      }
      ++place_;
    } else if (first == '"') {
      json.kind = Json::Kind::string;
      json.text = string();
    } else if (word("null")) {
    } else if (word("true") || word("false")) {
      json.kind = Json::Kind::boolean;
      json.number = first == 't';
    } else {
      json.kind = Json::Kind::number;
      char* end = nullptr;
      json.number = std::strtod(text_.c_str() + place_, &end);
      const size_t next = end - text_.c_str();
      if (next == place_) fail();
      place_ = next;
    }
    return json;
  }

  std::string string() {
    expect('"');
    std::string result;
    while (peek() != '"') {
      char c = text_[place_++];
      if (c == '\\') {
        c = peek();
        ++place_;
        static const std::map<char, char> escapes = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'b', '\b'}, {'f', '\f'}};
        if (c == 'u') {
          append_utf8(result, code_point());
          continue;
        }
        const auto found = escapes.find(c);
        if (found != escapes.end()) c = found->second;
      }
      result += c;
    }
    ++place_;
    return result;
  }

  unsigned long code_point() {
    const auto unit = [this] {
      if (place_ + 4 > text_.size()) fail();
      const unsigned long value = std::strtoul(text_.substr(place_, 4).c_str(), nullptr, 16);
      place_ += 4;
      return value;
    };
    const unsigned long high = unit();
    if (high < 0xD800 || high > 0xDBFF || !word("\\u")) return high;
    return 0x10000 + ((high - 0xD800) << 10) + (unit() - 0xDC00);  // a pair of UTF-16
  }

  static void append_utf8(std::string& result, unsigned long code) {
    if (code < 0x80) {
      result += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const int starts[] = {0, 0xC0, 0xE0, 0xF0};
    result += static_cast<char>(starts[more] | (code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i) result += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F));
  }

  bool word(const std::string& expected) {
    if (text_.compare(place_, expected.size(), expected) != 0) return false;
    place_ += expected.size();
    return true;
  }
  void expect(char c) {
    skip_spaces();
    if (peek() != c) fail();
    ++place_;
  }
  void skip_spaces() {
    while (place_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[place_]))) ++place_;
  }
  char peek() const {
    if (place_ >= text_.size()) fail();
    return text_[place_];
  }
  [[noreturn]] void fail() const {
    throw std::runtime_error("damaged: no JSON at character " + std::to_string(place_));
  }

  const std::string& text_;
  size_t place_ = 0;
};

inline std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      static const char digits[] = "0123456789abcdef";
      result += std::string("\\u00") + digits[c >> 4] + digits[c & 15];
    } else {
      result += c;
    }
  }
  return result + "\"";
}

}  // namespace internimage
