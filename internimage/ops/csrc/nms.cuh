// Non-maximum suppression on CUDA: the kernels. Includes nothing of torch. The first finds for every box which later
// ones of its group it would remove, 32 of them a word; the second, one block, goes through the boxes in order.
#pragma once

#include <cstdint>

#include "cuda_lanes.cuh"
#include "roi_align.h"

namespace internimage {

constexpr int kWordBits = 32;

template <typename Real>
struct Box {
  Real x1, y1, x2, y2;

  __device__ __forceinline__ explicit Box(const Real* from)
      : x1(__ldg(from)), y1(__ldg(from + 1)), x2(__ldg(from + 2)), y2(__ldg(from + 3)) {}

  __device__ __forceinline__ static Real positive(Real x) { return x < Real(0) ? Real(0) : x; }  // NaN stays

  __device__ __forceinline__ Real area() const { return product(positive(x2 - x1), positive(y2 - y1)); }

  // False where the ratio is 0 / 0 or NaN.
  __device__ __forceinline__ bool overlaps(const Box& other, Real threshold) const {
    const Real left = x1 > other.x1 ? x1 : other.x1, right = x2 < other.x2 ? x2 : other.x2;
    const Real top = y1 > other.y1 ? y1 : other.y1, bottom = y2 < other.y2 ? y2 : other.y2;
    const Real shared = product(positive(right - left), positive(bottom - top));
    return shared / (area() + other.area() - shared) > threshold;
  }
};

// A thread compares one box with those of one word. Words before the box's own are left as they are.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
nms_suppresses(int work, int64_t first_box, int count, Divisor words, Real threshold, const Real* __restrict__ boxes,
               const int64_t* __restrict__ groups, uint32_t* __restrict__ suppresses) {
  for (int block = int(blockIdx.x) * kThreads; block < work; block += int(gridDim.x) * kThreads) {
    const int item = block + int(threadIdx.x);
    if (item >= work) continue;
    const Divisor::Parts place = words(item);
    const int i = int(first_box) + place.quotient, begin = place.remainder * kWordBits;
    if (begin + kWordBits <= i) continue;
    const Box<Real> box(boxes + 4 * int64_t(i));
    const int64_t group = __ldg(groups + i);
    uint32_t word = 0;
    for (int bit = 0; bit < kWordBits; ++bit) {
      const int j = begin + bit;
      if (j <= i || j >= count || __ldg(groups + j) != group) continue;
      if (box.overlaps(Box<Real>(boxes + 4 * int64_t(j)), threshold)) word |= uint32_t(1) << bit;
    }
    suppresses[int64_t(i) * words.value + place.remainder] = word;
  }
}

// One block. removed: [words], scratch.
static __global__ void __launch_bounds__(kThreads)
nms_keep(int count, int words, const int64_t* __restrict__ groups, const uint32_t* __restrict__ suppresses,
         uint32_t* removed, bool* __restrict__ kept) {
  const int thread = int(threadIdx.x);
  for (int word = thread; word < words; word += kThreads) removed[word] = 0;
  __syncthreads();
  for (int word = 0; word < words; ++word) {
    const int begin = word * kWordBits;
    uint32_t gone = removed[word], stays = 0;  // the same in all threads
    for (int bit = 0; bit < kWordBits && begin + bit < count; ++bit) {
      if (gone >> bit & 1 || __ldg(groups + begin + bit) < 0) continue;
      stays |= uint32_t(1) << bit;
      gone |= __ldg(suppresses + int64_t(begin + bit) * words + word);
    }
    if (thread < kWordBits && begin + thread < count) kept[begin + thread] = stays >> thread & 1;
    for (int later = word + 1 + thread; later < words; later += kThreads) {
      uint32_t all = removed[later];
      for (uint32_t bits = stays; bits; bits &= bits - 1)
        all |= __ldg(suppresses + int64_t(begin + __ffs(int(bits)) - 1) * words + later);
      removed[later] = all;
    }
    __syncthreads();
  }
}

}  // namespace internimage
