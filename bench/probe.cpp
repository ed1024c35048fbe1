// The loads, broadcasts, multiply-adds and stores of DCNv3 with 9 taps and 16 channels a group, on lines in the first
// cache and without any search for their places: what the load ports allow. And the clock, to count in cycles.
#include <chrono>

#include "simd.h"

using namespace internimage;

using V = WidestVector<float>;
constexpr int kTaps = 9, kChannels = 16, vectors = kChannels / kLanes<V>;
// Visible from elsewhere, so that no compiler takes their contents for known.
alignas(64) float pixels[64 * kChannels], gradients[64 * kChannels], weights[4 * kTaps], outputs[kChannels];

extern "C" void forward(int64_t units) {
  for (int64_t unit = 0; unit < units; ++unit) {
    V sum[4][vectors] = {};
    for (int i = 0; i < 4 * kTaps; i += 4) {
      for (int j = 0; j < 4; ++j) {
        for (int v = 0; v < vectors; ++v) {
          sum[j][v] += weights[i + j] * load<V>(&pixels[(i + j) * kChannels + v * kLanes<V>]);
        }
      }
    }
    for (int v = 0; v < vectors; ++v) store(outputs + v * kLanes<V>, sum[0][v] + sum[1][v] + sum[2][v] + sum[3][v]);
    asm volatile("" ::: "memory");
  }
}

extern "C" void backward(int64_t units) {
  for (int64_t unit = 0; unit < units; ++unit) {
    V grad[vectors], dots[4] = {};
    for (int v = 0; v < vectors; ++v) grad[v] = load<V>(outputs + v * kLanes<V>);
    for (int i = 0; i < 4 * kTaps; i += 4) {
      for (int j = 0; j < 4; ++j) {
        for (int v = 0; v < vectors; ++v) {
          const int at = (i + j) * kChannels + v * kLanes<V>;
          dots[j] += grad[v] * load<V>(&pixels[at]);
          store(&gradients[at], load<V>(&gradients[at]) + grad[v] * weights[i + j]);
        }
      }
    }
    const V all = dots[0] + dots[1] + dots[2] + dots[3];
    asm volatile("" ::"r"(&all) : "memory");
  }
}

// Cycles a second, by a chain of additions that take one each.
extern "C" double clock_hz() {
  constexpr int additions = 5000000;
  uint64_t x = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < additions; i += 5) {
#if defined(__x86_64__)
    asm volatile("add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0" : "+r"(x));
#else
    asm volatile("add %0, %0, 1\n add %0, %0, 1\n add %0, %0, 1\n add %0, %0, 1\n add %0, %0, 1" : "+r"(x));
#endif
  }
  return additions / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
