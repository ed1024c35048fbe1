// Where DCNv3 samples, one output pixel at a time: places and weights, vectorised over the taps of all groups; and back
// from dot products to the gradients of offset and mask. Knows nothing of tensors and threads. No branch depends on
// where a point lies: near a border nobody could predict it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "geometry.h"
#include "simd.h"  // before bilinear.h, which calls its floor_of
#include "bilinear.h"

namespace internimage {

// Arithmetic type of a stored type: float for the halves.
template <typename T>
using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;

// `size` elements, zero at first, from the start of a cache line on.
template <typename T>
class Array {
 public:
  explicit Array(int64_t size) : lines_(size * sizeof(T) / sizeof(Line) + 1) {}
  T* data() { return reinterpret_cast<T*>(lines_.data()); }
  const T* data() const { return reinterpret_cast<const T*>(lines_.data()); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> lines_;
};

// Images are sampled in arithmetic type, with the channels of each group filled up to whole vectors of 32 bytes.
template <typename R>
int64_t padded_group_channels(const Geometry& g) {
  constexpr int64_t unit = 32 / int64_t(sizeof(R));
  return (g.group_channels + unit - 1) / unit * unit;
}

constexpr int32_t kPlaceBytes = 8;  // places in an image are counted in these, so that 31 bits reach 16 GiB

// Places from an image's first pixel to its end; the kernels need them below 2^31.
template <typename R>
int64_t places_of_image(const Geometry& g) {
  return g.h * g.w * g.groups * padded_group_channels<R>(g) * int64_t(sizeof(R)) / kPlaceBytes;
}

// The taps of one group at one output pixel. Passed by value: no store into a tensor can then change where it points.
template <typename R>
struct Taps {
  const int32_t* place;         // of the upper left neighbour; negative: the tap is outside the window
  const int32_t *right, *down;  // bytes from a neighbour to the one beside it and below it; 0 where there is none
  const R* weights;  // what the upper left, upper right, lower left and lower right neighbour count, times 1 / scale
  R scale;           // 1 without softmax
  R* dots;           // dot products of those neighbours with the output's gradient, times scale

  // Finds the neighbours of tap t in the image at `image`; outside the window all of them are `spare`.
  INTERNIMAGE_INLINE void neighbours(int64_t t, const R* image, const R* spare, const R* (&to)[4]) const {
    const int64_t from_first = place[t];
    const R* const inside = image + from_first * (kPlaceBytes / int64_t{sizeof(R)});
    const char* const upper = reinterpret_cast<const char*>(from_first < 0 ? spare : inside);
    const char* const lower = upper + down[t];
    to[0] = reinterpret_cast<const R*>(upper), to[1] = reinterpret_cast<const R*>(upper + right[t]);
    to[2] = reinterpret_cast<const R*>(lower), to[3] = reinterpret_cast<const R*>(lower + right[t]);
  }
};

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
        step_x_(int32_t(places_of_image<R>(g) / (g.h * g.w))),
        step_y_(int32_t(g.w) * step_x_) {
    for (int64_t t = 0; t < points_; ++t) {
      int64_t tap = t % taps_;  // x is the outer loop
      if (g.remove_center && tap >= g.kernel_w / 2 * g.kernel_h + g.kernel_h / 2) ++tap;
      grid_y_[t] = R(tap % g.kernel_h * g.dilation_h - anchor_y());
      grid_x_[t] = R(tap / g.kernel_h * g.dilation_w - anchor_x());
      group_place_[t] = int32_t(t / taps_ * padded_group_channels<R>(g) * int64_t(sizeof(R)) / kPlaceBytes);
    }
    for (int64_t k = 0; k < taps_; k += lanes) in_group_[k / lanes] = lane_numbers<V>() < V{} + R(taps_ - k);
    for (int64_t group = 0; group < groups; ++group) scale_[group] = 1;
  }

  // Reads the offsets and the mask (or logits) of the output pixel (y, x); `backward` keeps what `gradients` needs.
  template <bool backward>
  void prepare(const T* offset, const T* mask, int64_t y, int64_t x) {
    if (points_ < lanes) {  // else the last vector begins early enough to end with the last point
      std::copy_n(offset, 2 * points_, few_offsets_);
      std::copy_n(mask, points_, few_weights_);
      offset = few_offsets_, mask = few_weights_;
    }
    if (!g_.softmax) return (void)locate_points<backward, false>(offset, mask, y, x);
    if (!locate_points<backward, true>(offset, mask, y, x)) {
      shift_logits(mask);
      locate_points<backward, true>(offset, shifted_.data(), y, x);
    }
    for (int64_t group = 0; group < groups_; ++group) {
      const R* const exponentials = &mask_[group * taps_];
      scale_[group] = 1 / sum_over_taps([&](int64_t k) { return load<V>(exponentials + k); });
    }
  }

  Taps<R> taps_of(int64_t group) {
    const int64_t t = group * taps_;
    return {&place_[t], &right_[t], &down_[t], &weights_[4 * t], scale_[group], &dots_[4 * t]};
  }

  // From the dots: the gradients of the offsets and of the mask (or logits).
  void gradients(T* grad_offset, T* grad_mask) {
    const bool few = points_ < lanes, softmax = g_.softmax;
    T *const offset_out = few ? few_offsets_ : grad_offset, *const mask_out = few ? few_weights_ : grad_mask;
    const Factors* const factors = factors_.data();
    const R *const mask = mask_.data(), *const dots = dots_.data();
    R* const grad_exponential = grad_exponential_.data();
    const int64_t points = points_;
    const V offset_scale = V{} + R(g_.offset_scale);
    for (int64_t begin = 0; begin < points; begin += lanes) {
      const int64_t t = vector_at(begin, points);
      const Factors& f = factors[begin / lanes];
      V upper_left, upper_right, lower_left, lower_right;
      load_columns(dots + 4 * t, upper_left, upper_right, lower_left, lower_right);
      upper_left = f.row0 & f.column0 ? upper_left : V{}, upper_right = f.row0 & f.column1 ? upper_right : V{};
      lower_left = f.row1 & f.column0 ? lower_left : V{}, lower_right = f.row1 & f.column1 ? lower_right : V{};
      const V along_upper = upper_right - upper_left, along_lower = lower_right - lower_left;
      const V upper = upper_left + f.lx * along_upper, lower = lower_left + f.lx * along_lower;
      const V of_mask = upper + f.ly * (lower - upper);
      softmax ? store(grad_exponential + t, of_mask) : store(mask_out + t, of_mask);
      const V factor = offset_scale * load<V>(mask + t);
      const V x = factor * (along_upper + f.ly * (along_lower - along_upper)), y = factor * (lower - upper);
      store(offset_out + 2 * t, interleave<0>(x, y));
      store(offset_out + 2 * t + lanes, interleave<1>(x, y));
    }
    if (few) std::copy_n(few_offsets_, 2 * points, grad_offset), std::copy_n(few_weights_, points, grad_mask);
    if (softmax) through_softmax(grad_mask);
  }

 private:
  using Int = Vector<int32_t, kLanes<V>>;
  using Mask = decltype(V{} < V{});

  static constexpr int lanes = kLanes<V>;
  static constexpr R kLargestLogit = 80;  // up to here exp, and its sums, stay far from the ends of float32's range

  // What the backward pass needs besides, of a vector of taps.
  struct Factors {
    V ly, lx;
    Mask row0, row1, column0, column1;
  };

  int64_t anchor_y() const { return g_.dilation_h * (g_.kernel_h - 1) / 2; }
  int64_t anchor_x() const { return g_.dilation_w * (g_.kernel_w - 1) / 2; }

  // The last vector overlaps the one before, so as to end with the last point: what they share is computed twice.
  static int64_t vector_at(int64_t begin, int64_t points) {
    return std::max<int64_t>(std::min<int64_t>(begin, points - lanes), 0);
  }

  // False if a logit is NaN or too large for a softmax that shifts nothing.
  template <bool backward, bool softmax, typename W>
  INTERNIMAGE_INLINE bool locate_points(const T* offset, const W* mask, int64_t out_y, int64_t out_x) {
    // Local copies: as far as a compiler knows, every store could change the members.
    const int64_t points = points_;
    const int32_t step_x = step_x_, step_y = step_y_;
    const R *const grid_y = grid_y_.data(), *const grid_x = grid_x_.data();
    const int32_t* const group_place = group_place_.data();
    int32_t *const place_out = place_.data(), *const right_out = right_.data(), *const down_out = down_.data();
    R *const weights_out = weights_.data(), *const mask_out = mask_.data();
    Factors* const factors = factors_.data();

    const V zero{}, one = zero + R(1);
    const V height = zero + R(g_.h), width = zero + R(g_.w), scale = zero + R(g_.offset_scale);
    const V base_y = zero + R(out_y * g_.stride_h - g_.pad_h + anchor_y());
    const V base_x = zero + R(out_x * g_.stride_w - g_.pad_w + anchor_x());
    Mask extreme{};
    for (int64_t begin = 0; begin < points; begin += lanes) {
      const int64_t t = vector_at(begin, points);
      const V offset0 = load<V>(offset + 2 * t), offset1 = load<V>(offset + 2 * t + lanes);
      const V y = base_y + scale * (load<V>(grid_y + t) + every_second<1>(offset0, offset1));
      const V x = base_x + scale * (load<V>(grid_x + t) + every_second<0>(offset0, offset1));
      const BilinearCell<V> cell = locate(y, x, height, width);
      V weight = load<V>(mask + t);
      if constexpr (softmax) {
        extreme |= ~((weight < zero + kLargestLogit) & (weight > zero - kLargestLogit));
        weight = exp_of(weight);
      }
      if constexpr (softmax || backward) store(mask_out + t, weight);
      if constexpr (backward) {
        factors[begin / lanes] = {cell.ly, cell.lx, cell.row0, cell.row1, cell.column0, cell.column1};
      }
      // A missing neighbour is replaced by the one beside it, with weight zero.
      const V upper = cell.row0 ? weight * (one - cell.ly) : zero, lower = cell.row1 ? weight * cell.ly : zero;
      const V left = cell.column0 ? one - cell.lx : zero, right = cell.column1 ? cell.lx : zero;
      store_columns(upper * left, upper * right, lower * left, lower * right, weights_out + 4 * t);
      const auto mask32 = [](Mask m) { return __builtin_convertvector(m, Int); };
      const Int row = __builtin_convertvector(cell.y0 > zero ? cell.y0 : zero, Int);
      const Int column = __builtin_convertvector(cell.x0 > zero ? cell.x0 : zero, Int);
      const Int place = row * step_y + column * step_x + load<Int>(group_place + t);
      store(place_out + t, place | ~mask32(cell.in_window));
      store(right_out + t, mask32(cell.column0 & cell.column1) & (step_x * kPlaceBytes));
      store(down_out + t, mask32(cell.row0 & cell.row1) & (step_y * kPlaceBytes));
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
      const R *const mask = &mask_[group * taps_], *const grad = &grad_exponential_[group * taps_];
      const R mean = scale_[group] * sum_over_taps([&](int64_t k) { return load<V>(mask + k) * load<V>(grad + k); });
      for (int64_t k = 0; k < taps_; ++k) *to++ = T(mask[k] * (grad[k] - mean));
    }
  }

  const Geometry g_;
  const int64_t taps_, groups_, points_;
  const int32_t step_x_, step_y_;  // places from a pixel to the next and from a row to the next

  // One entry a point, and room to load and store whole vectors.
  const int64_t size_ = points_ + 2 * lanes;
  Array<R> grid_y_{size_}, grid_x_{size_};  // places on the regular grid
  Array<int32_t> group_place_{size_};       // from a pixel's first channel to the group's
  Array<int32_t> place_{size_}, right_{size_}, down_{size_};
  Array<R> weights_{4 * size_}, dots_{4 * size_};
  Array<R> mask_{size_};     // with softmax: exponentials of the logits
  Array<R> shifted_{size_};  // logits less the largest of their group
  Array<R> grad_exponential_{size_};
  Array<Factors> factors_{size_ / lanes};
  Array<R> scale_{groups_};
  Array<Mask> in_group_{taps_ / lanes + 1};  // which lanes of a group's vectors are taps of its own
  T few_offsets_[2 * lanes] = {}, few_weights_[lanes] = {};
};

}  // namespace internimage
