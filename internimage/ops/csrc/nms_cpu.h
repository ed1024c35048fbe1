// Non-maximum suppression on the CPU: a kept box against a vector of later ones at a time. Knows nothing of tensors and
// threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "points_cpu.h"

namespace internimage {

// The boxes of one group, in falling order of score, with each coordinate in an array of its own.
template <typename R>
class NmsGroup {
 public:
  using V = WidestVector<R>;

  // boxes [count, 4].
  NmsGroup(const R* boxes, int64_t count) : count_(count) {
    for (int64_t i = 0; i < count; ++i) {
      const R* const box = boxes + 4 * i;
      x1_[i] = box[0], y1_[i] = box[1], x2_[i] = box[2], y2_[i] = box[3];
      area_[i] = positive(box[2] - box[0]) * positive(box[3] - box[1]);
    }
  }

  void keep(R threshold, bool* kept) {
    for (int64_t i = 0; i < count_; ++i) {
      kept[i] = removed_[i] == R(0);
      if (kept[i]) remove_later(i, threshold);
    }
  }

 private:
  static constexpr int64_t lanes = kLanes<V>;

  int64_t room() const { return count_ + lanes; }
  static R positive(R x) { return x < R(0) ? R(0) : x; }  // NaN stays

  // Comparisons put NaN where 0 / 0 or NaN is, and nothing is above the threshold then.
  void remove_later(int64_t i, R threshold) {
    const V zero{}, one = zero + R(1);
    const V x1 = zero + x1_[i], y1 = zero + y1_[i], x2 = zero + x2_[i], y2 = zero + y2_[i], area = zero + area_[i];
    for (int64_t j = (i + 1) / lanes * lanes; j < count_; j += lanes) {  // those before i are decided already
      const V left = larger(x1, load<V>(x1_.data() + j)), right = smaller(x2, load<V>(x2_.data() + j));
      const V top = larger(y1, load<V>(y1_.data() + j)), bottom = smaller(y2, load<V>(y2_.data() + j));
      const V shared = rounded(larger(right - left, zero) * larger(bottom - top, zero));
      const V overlap = shared / (area + load<V>(area_.data() + j) - shared);
      store(removed_.data() + j, overlap > threshold ? one : load<V>(removed_.data() + j));
    }
  }

  const int64_t count_;
  Array<R> x1_{room()}, y1_{room()}, x2_{room()}, y2_{room()}, area_{room()};
  Array<R> removed_{room()};  // 0 or 1
};

// boxes [count, 4], groups [count], those of one group side by side.
template <typename R>
void nms(const R* boxes, const int64_t* groups, int64_t count, R threshold, bool* kept) {
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin + 1;
    while (end < count && groups[end] == groups[begin]) ++end;
    if (groups[begin] < 0) {
      std::fill(kept + begin, kept + end, false);
    } else {
      NmsGroup<R>(boxes + 4 * begin, end - begin).keep(threshold, kept + begin);
    }
    begin = end;
  }
}

}  // namespace internimage
