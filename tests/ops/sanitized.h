// What the programs share that run kernels on random sizes under the sanitizers.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

template <typename T>
double sum(const std::vector<T>& values) {
  double total = 0;
  for (const T value : values) total += std::abs(double(value));
  return total;
}

// A whole number from `low` to `high`.
inline int64_t draw(std::mt19937& random, int low, int high) { return int64_t(low + random() % (high - low + 1)); }

// Run 60 cases of each dtype: `run` takes a value of the type, its name, and the source of randomness.
template <typename Run>
void run_all(const Run& run) {
  std::mt19937 random(0);
  for (int i = 0; i < 60; ++i) {
    run(float(), "float32", random), run(double(), "float64", random);
    run(c10::Half(), "float16", random), run(c10::BFloat16(), "bfloat16", random);
  }
}
