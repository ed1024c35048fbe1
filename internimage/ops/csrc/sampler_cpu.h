// Where DCNv3 samples, one output pixel at a time: places and weights, vectorised over the taps of all groups; and back
// from dot products to the gradients of offset and mask. Knows nothing of tensors and threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "channels_cpu.h"
#include "geometry.h"
#include "points_cpu.h"

namespace internimage {

// All taps of one output pixel in `groups` groups. T: stored type of offset and mask.
template <typename T>
class Sampler {
 public:
  using R = Real<T>;
  using V = WidestVector<R>;

  Sampler(const Geometry& g, int64_t groups)
      : g_(g),
        taps_(g.taps()),
        groups_(groups),
        points_(groups * taps_),
        step_x_(int32_t(places_of<R>(g.groups, g.group_channels))),
        step_y_(int32_t(g.w) * step_x_) {
    for (int64_t t = 0; t < points_; ++t) {
      int64_t tap = t % taps_;  // x is the outer loop
      if (g.remove_center && tap >= g.kernel_w / 2 * g.kernel_h + g.kernel_h / 2) ++tap;
      grid_y_[t] = R(tap % g.kernel_h * g.dilation_h - anchor_y());
      grid_x_[t] = R(tap / g.kernel_h * g.dilation_w - anchor_x());
      group_place_[t] = int32_t(places_of<R>(t / taps_, g.group_channels));
    }
    for (int64_t k = 0; k < taps_; k += lanes) in_group_[k / lanes] = lane_numbers<V>() < V{} + R(taps_ - k);
    for (int64_t group = 0; group < groups; ++group) scale_[group] = 1;
  }

  // Reads the offsets and the mask (or logits) of the output pixel (y, x); `backward` keeps what `gradients` needs.
  // `outside`: where points outside the window read zeros, in bytes from the image; not in the backward pass.
  template <bool backward>
  __attribute__((noinline)) void prepare(const T* offset, const T* mask, int64_t y, int64_t x, int64_t outside) {
    if (points_ < lanes) {  // else the last vector begins early enough to end with the last point
      std::copy_n(offset, 2 * points_, few_offsets_);
      std::copy_n(mask, points_, few_weights_);
      offset = few_offsets_, mask = few_weights_;
    }
    if (!g_.softmax) return (void)locate_points<backward, false>(offset, mask, y, x, outside);
    if (!locate_points<backward, true>(offset, mask, y, x, outside)) {
      shift_logits(mask);
      locate_points<backward, true>(offset, shifted_.data(), y, x, outside);
    }
    for (int64_t group = 0; group < groups_; ++group) {
      const R* const exponentials = scratch_.weights() + group * taps_;
      scale_[group] = 1 / sum_over_taps([&](int64_t k) { return load<V>(exponentials + k); });
    }
  }

  Taps<R> taps_of(int64_t group) { return scratch_.taps(group * taps_, scale_[group]); }

  // From the dots: the gradients of the offsets and of the mask (or logits).
  void gradients(T* grad_offset, T* grad_mask) {
    const bool few = points_ < lanes, softmax = g_.softmax;
    T *const offset_out = few ? few_offsets_ : grad_offset, *const mask_out = few ? few_weights_ : grad_mask;
    const auto target = scratch_.target();
    const R *const mask = scratch_.weights(), *const dots = scratch_.dots();
    R* const grad_exponential = grad_exponential_.data();
    const int64_t points = points_;
    const V offset_scale = V{} + offset_scale_, last_row = V{} + last_row_, last_column = V{} + last_column_;
    for (int64_t begin = 0; begin < points; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, points);
      const auto by = Points<R>::derivatives(target, begin, dots + 4 * t, last_row, last_column);
      softmax ? store(grad_exponential + t, by.weight) : store(mask_out + t, by.weight);
      const V factor = offset_scale * load<V>(mask + t);
      const V x = factor * by.x, y = factor * by.y;
      store(offset_out + 2 * t, interleave<0>(x, y));
      store(offset_out + 2 * t + lanes, interleave<1>(x, y));
    }
    if (few) std::copy_n(few_offsets_, 2 * points, grad_offset), std::copy_n(few_weights_, points, grad_mask);
    if (softmax) through_softmax(grad_mask);
  }

 private:
  using Int = typename Points<R>::Int;
  using Mask = typename Points<R>::Mask;

  static constexpr int lanes = kLanes<V>;
  static constexpr R kLargestLogit = 80;  // up to here exp, and its sums, stay far from the ends of float32's range

  int64_t anchor_y() const { return g_.dilation_h * (g_.kernel_h - 1) / 2; }
  int64_t anchor_x() const { return g_.dilation_w * (g_.kernel_w - 1) / 2; }

  // False if a logit is NaN or too large for a softmax that shifts nothing. In steps, each for all points: in one, a
  // point would be so long a chain of operations that a processor would see but one vector of points at a time.
  template <bool backward, bool softmax, typename W>
  INTERNIMAGE_INLINE bool locate_points(const T* offset, const W* mask, int64_t out_y, int64_t out_x,
                                        int64_t outside) {
    // Local copies: as far as a compiler knows, every store could change the members.
    const int64_t points = points_;
    const int32_t step_y = step_y_;
    const R *const grid_y = grid_y_.data(), *const grid_x = grid_x_.data();
    const int32_t* const group_place = group_place_.data();
    const auto target = scratch_.target();

    const V zero{}, last_row = zero + last_row_, last_column = zero + last_column_, scale = zero + offset_scale_;
    const V base_y = zero + R(out_y * g_.stride_h + first_y_), base_x = zero + R(out_x * g_.stride_w + first_x_);
    for (int64_t begin = 0; begin < points; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, points);
      V offset_x, offset_y;
      load_pairs(offset + 2 * t, offset_x, offset_y);
      const V y = base_y + scale * (load<V>(grid_y + t) + offset_y);
      const V x = base_x + scale * (load<V>(grid_x + t) + offset_x);
      target.locate(begin, y, x, last_row, last_column, load<Int>(group_place + t), step_y);
    }
    Mask extreme{};
    if constexpr (softmax) {
      for (int64_t begin = 0; begin < points; begin += lanes) {
        const int64_t t = Points<R>::vector_at(begin, points);
        const V logit = load<V>(mask + t);
        extreme |= ~((logit < zero + kLargestLogit) & (logit > zero - kLargestLogit));
        store(target.weights + t, exp_of(logit));
      }
    }
    for (int64_t begin = 0; begin < points; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, points);
      const V weight = softmax ? load<V>(target.weights + t) : load<V>(mask + t);
      target.template weigh<backward && !softmax, backward>(begin, t, weight, last_row, last_column, outside);
    }
    return !any(extreme);
  }

  __attribute__((noinline)) void shift_logits(const T* mask) {
    for (int64_t first = 0; first < points_; first += taps_) {
      R highest = R(mask[first]);
      for (int64_t t = first; t < first + taps_; ++t) highest = std::max(highest, R(mask[t]));
      for (int64_t t = first; t < first + taps_; ++t) shifted_[t] = R(mask[t]) - highest;
    }
  }

  // f(k): the values of a group's taps from number k on, as a vector that may reach beyond them.
  template <typename F>
  INTERNIMAGE_INLINE R sum_over_taps(const F& f) const {
    V total{};
    const Mask* in_group = in_group_.data();
    for (int64_t k = 0; k < taps_; k += lanes) total += *in_group++ ? f(k) : V{};
    return sum_of(total);
  }

  // The gradients of the logits from those of the exponentials, which the dots' scale has divided by their sum.
  void through_softmax(T* to) const {
    for (int64_t group = 0; group < groups_; ++group) {
      const R *const mask = scratch_.weights() + group * taps_, *const grad = &grad_exponential_[group * taps_];
      const R mean = scale_[group] * sum_over_taps([&](int64_t k) { return load<V>(mask + k) * load<V>(grad + k); });
      for (int64_t k = 0; k < taps_; ++k) *to++ = T(mask[k] * (grad[k] - mean));
    }
  }

  const Geometry g_;
  const int64_t taps_, groups_, points_;
  const int32_t step_x_, step_y_;  // places from a pixel to the next and from a row to the next

  const int64_t first_y_ = anchor_y() - g_.pad_h, first_x_ = anchor_x() - g_.pad_w;
  const R offset_scale_ = R(g_.offset_scale);
  const R last_row_ = last_pair<R>(g_.h), last_column_ = last_pair<R>(g_.w);

  Points<R> scratch_{points_, step_x_};
  const int64_t room_ = scratch_.room();
  Array<R> grid_y_{room_}, grid_x_{room_};  // places on the regular grid
  Array<int32_t> group_place_{room_};       // from a pixel's first channel to the group's
  Array<R> shifted_{room_};                 // logits less the largest of their group
  Array<R> grad_exponential_{room_};
  Array<R> scale_{groups_};
  Array<Mask> in_group_{taps_ / lanes + 1};  // which lanes of a group's vectors are taps of its own
  T few_offsets_[2 * lanes] = {}, few_weights_[lanes] = {};
};

}  // namespace internimage
