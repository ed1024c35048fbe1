// Sampling points on the CPU, a vector of them at a time: where their neighbours lie and what each counts; and back from
// dot products to derivatives by the points' places and weights. Knows nothing of operators, tensors and threads. No
// branch depends on where a point lies: near a border nobody could predict it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "simd.h"

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

constexpr int32_t kPlaceBytes = 8;  // places in an image are counted in these, so that 31 bits reach 16 GiB

// The points of one group at one output position. Passed by value: no store into a tensor can then change where it
// points.
template <typename R>
struct Taps {
  const int64_t* place;       // of the upper left neighbour, in bytes from the image's first channel
  const R* weights;  // what the upper left, upper right, lower left and lower right neighbour count, times 1 / scale
  R scale;           // 1 without softmax
  R* dots;           // dot products of those neighbours with the output's gradient, times scale

  Taps from(int64_t t) const { return {place + t, weights + 4 * t, scale, dots + 4 * t}; }
};

// Bytes from a point's upper left neighbour to the upper left, upper right, lower left and lower right one in a map whose
// pixels lie `step` bytes apart. Where there is but one column or row, two neighbours are the same.
struct Corners {
  int64_t at[4];

  Corners(int64_t height, int64_t width, int64_t step) : at{} {
    const int64_t right = width > 1 ? step : 0, down = height > 1 ? width * step : 0;
    at[1] = right, at[2] = down, at[3] = down + right;
  }
};

template <typename R>
int64_t bytes_between(const R* from, const R* to) {
  return int64_t(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

// The last row of a map that has another below it, or column; -1 where there is but one. Rounded down.
template <typename R>
R last_pair(int64_t size) {
  const R last = R(size - 2);
  return int64_t(last) > size - 2 ? std::nextafter(last, R(0)) : last;
}

// Scratch memory for points that are prepared together.
template <typename R>
class Points {
 public:
  using V = WidestVector<R>;
  using Int = Vector<int32_t, kLanes<V>>;
  using Mask = decltype(V{} < V{});

  static constexpr int lanes = kLanes<V>;

  // Of a vector of points.
  struct Factors {
    V upper, lower, left, right;  // what the neighbours' rows and columns count
  };

  // By the weight of a point, and by its place before that weight.
  struct Derivatives {
    V weight, y, x;
  };

  // Where results go. Passed by value: as far as a compiler knows, every store could change the members.
  struct Target {
    int32_t* place32;
    int64_t* place;
    R *from_row, *from_column, *corner_weights, *weights;
    Factors* factors;
    int32_t step_x;

    // Finds the neighbours of the points from number t on, the vector that begins with number `begin`. `last_pair` of
    // each one's map; and from the image's first place on: where the map begins, and how far its rows are apart.
    template <typename Step>
    INTERNIMAGE_INLINE void locate(int64_t begin, V y, V x, V last_row, V last_column, Int first, Step step_y) const {
      const V zero{};
      const Int row = __builtin_convertvector(smaller(larger(y, zero), larger(last_row, zero)), Int);
      const Int column = __builtin_convertvector(smaller(larger(x, zero), larger(last_column, zero)), Int);
      store(from_row + begin, y - __builtin_convertvector(row, V));
      store(from_column + begin, x - __builtin_convertvector(column, V));
      store(place32 + begin, row * step_y + column * step_x + first);
    }

    // Then finds what the neighbours count, given the weights of those points: of a row so much as it is nearer than
    // one pixel, which is nothing for points outside the window. There the forward pass reads at the place `outside`,
    // and the backward pass, which takes nothing from what it reads there, at the nearest pixels.
    template <bool keep_weights, bool backward>
    INTERNIMAGE_INLINE void weigh(int64_t begin, int64_t t, V weight, V last_row, V last_column,
                                  int64_t outside) const {
      const V zero{}, one = zero + R(1), two = zero + R(2);
      const V from_row = load<V>(this->from_row + begin), from_column = load<V>(this->from_column + begin);
      const V far_row = last_row >= zero ? two : zero, far_column = last_column >= zero ? two : zero;
      const V upper = larger(one - absolute(from_row), zero), left = larger(one - absolute(from_column), zero);
      const V lower = larger(smaller(from_row, far_row - from_row), zero);
      const V right = larger(smaller(from_column, far_column - from_column), zero);
      const V weighted_upper = weight * upper, weighted_lower = weight * lower;
      store_columns(weighted_upper * left, weighted_upper * right, weighted_lower * left, weighted_lower * right,
                    corner_weights + 4 * t);
      if constexpr (keep_weights) store(weights + t, weight);
      if constexpr (backward) factors[begin / lanes] = {upper, lower, left, right};

      Int places = load<Int>(place32 + begin);
      if constexpr (!backward) places |= ~__builtin_convertvector(in_window(upper, lower, left, right), Int);
      using Long = WidestVector<int64_t>;
      constexpr int n = kLanes<Long>;
      for (int i = 0; i < lanes; i += n) {
        const Long wide = widen<n>(part<n>(places, i)), bytes = wide * kPlaceBytes;
        if constexpr (backward) {
          store(place + t + i, bytes);
        } else {
          store(place + t + i, wide < 0 ? Long{} + outside : bytes);
        }
      }
    }
  };

  // step_x: places from a pixel to the next.
  Points(int64_t points, int32_t step_x) : points_(points), step_x_(step_x) {}

  // The last vector overlaps the one before, so as to end with the last point: what they share is computed twice.
  static int64_t vector_at(int64_t begin, int64_t points) {
    return std::max<int64_t>(std::min<int64_t>(begin, points - lanes), 0);
  }

  // Elements of an array with one entry a point, and room to load and store whole vectors.
  int64_t room() const { return points_ + 2 * lanes; }

  Target target() {
    return {place32_.data(), place_.data(), from_row_.data(), from_column_.data(),
            corner_weights_.data(), weights_.data(), factors_.data(), step_x_};
  }

  // As `keep_weights` left them.
  const R* weights() const { return weights_.data(); }

  Taps<R> taps(int64_t first, R scale) {
    return {&place_[first], &corner_weights_[4 * first], scale, &dots_[4 * first]};
  }

  const R* dots() const { return dots_.data(); }

  // From the dots of a vector of points.
  INTERNIMAGE_INLINE static Derivatives derivatives(const Target& of, int64_t begin, const R* dots, V last_row,
                                                    V last_column) {
    const Factors& f = of.factors[begin / lanes];
    V upper_left, upper_right, lower_left, lower_right;
    load_columns(dots, upper_left, upper_right, lower_left, lower_right);
    const V upper = f.left * upper_left + f.right * upper_right, lower = f.left * lower_left + f.right * lower_right;
    const V left = f.upper * upper_left + f.lower * lower_left, right = f.upper * upper_right + f.lower * lower_right;
    const Mask inside = in_window(f.upper, f.lower, f.left, f.right);
    return {inside ? f.upper * upper + f.lower * lower : V{},
            inside ? slope(load<V>(of.from_row + begin), upper, lower, last_row) : V{},
            inside ? slope(load<V>(of.from_column + begin), left, right, last_column) : V{}};
  }

 private:
  // Of a NaN too: nothing counts there.
  INTERNIMAGE_INLINE static Mask in_window(V upper, V lower, V left, V right) {
    return (upper + lower) * (left + right) > V{};
  }

  // How fast a sample changes along a side, given what its two pixels hold; see `Target::weigh` for what they count.
  INTERNIMAGE_INLINE static V slope(V from, V first, V second, V last) {
    const V zero{}, one = zero + R(1);
    const V rise = ((from >= zero) & (last >= zero) ? second : zero) - (from < one ? first : zero);
    return (from >= zero) & (from < one) ? rise : -rise;
  }

  const int64_t points_;
  const int32_t step_x_;
  Array<int32_t> place32_{room()};
  Array<int64_t> place_{room()};
  Array<R> corner_weights_{4 * room()}, dots_{4 * room()};
  Array<R> weights_{room()}, from_row_{room()}, from_column_{room()};
  Array<Factors> factors_{room() / lanes};
};

}  // namespace internimage
