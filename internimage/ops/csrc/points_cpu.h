// Sampling points on the CPU, a vector of them at a time: where their neighbours lie and what each counts; and back from
// dot products to derivatives by the points' places and weights. Knows nothing of operators, tensors and threads. No
// branch depends on where a point lies: near a border nobody could predict it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

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

constexpr int32_t kPlaceBytes = 8;  // places in an image are counted in these, so that 31 bits reach 16 GiB

// The points of one group at one output position. Passed by value: no store into a tensor can then change where it
// points.
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

// Scratch memory for points that are prepared together.
template <typename R>
class Points {
 public:
  using V = WidestVector<R>;
  using Int = Vector<int32_t, kLanes<V>>;
  using Mask = decltype(V{} < V{});

  static constexpr int lanes = kLanes<V>;

  // What the backward pass needs besides, of a vector of points.
  struct Factors {
    V ly, lx;
    Mask row0, row1, column0, column1;
  };

  // By the weight of a point, and by its place before that weight.
  struct Derivatives {
    V weight, y, x;
  };

  // Where `put` writes. Passed by value: as far as a compiler knows, every store could change the members.
  struct Target {
    int32_t *place, *right, *down;
    R *corner_weights, *weights;
    Factors* factors;
    int32_t step_x;

    // Puts the points from number t on, the vector that begins with number `begin`. Of each: its place and weight, the
    // size of its map, and from the image's first place on: where the map begins, and how far its rows are apart.
    template <bool keep_weights, bool backward, typename Step>
    INTERNIMAGE_INLINE void put(int64_t begin, int64_t t, V y, V x, V weight, V height, V width, Int first,
                                Step step_y) const {
      const V zero{}, one = zero + R(1);
      const BilinearCell<V> cell = locate(y, x, height, width);
      if constexpr (keep_weights) store(weights + t, weight);
      if constexpr (backward) {
        factors[begin / lanes] = {cell.ly, cell.lx, cell.row0, cell.row1, cell.column0, cell.column1};
      }
      // A missing neighbour is replaced by the one beside it, with weight zero.
      const V upper = cell.row0 ? weight * (one - cell.ly) : zero, lower = cell.row1 ? weight * cell.ly : zero;
      const V left = cell.column0 ? one - cell.lx : zero, right_of = cell.column1 ? cell.lx : zero;
      store_columns(upper * left, upper * right_of, lower * left, lower * right_of, corner_weights + 4 * t);
      const auto mask32 = [](Mask m) { return __builtin_convertvector(m, Int); };
      const Int row = __builtin_convertvector(cell.y0 > zero ? cell.y0 : zero, Int);
      const Int column = __builtin_convertvector(cell.x0 > zero ? cell.x0 : zero, Int);
      store(place + t, (row * step_y + column * step_x + first) | ~mask32(cell.in_window));
      store(right + t, mask32(cell.column0 & cell.column1) & (step_x * kPlaceBytes));
      store(down + t, mask32(cell.row0 & cell.row1) & (step_y * kPlaceBytes));
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
    return {place_.data(), right_.data(), down_.data(), corner_weights_.data(), weights_.data(), factors_.data(),
            step_x_};
  }

  // As `keep_weights` left them.
  const R* weights() const { return weights_.data(); }

  Taps<R> taps(int64_t first, R scale) {
    return {&place_[first], &right_[first], &down_[first], &corner_weights_[4 * first], scale, &dots_[4 * first]};
  }

  const Factors* factors() const { return factors_.data(); }
  const R* dots() const { return dots_.data(); }

  // From the dots of a vector of points.
  INTERNIMAGE_INLINE static Derivatives derivatives(const Factors& f, const R* dots) {
    V upper_left, upper_right, lower_left, lower_right;
    load_columns(dots, upper_left, upper_right, lower_left, lower_right);
    upper_left = f.row0 & f.column0 ? upper_left : V{}, upper_right = f.row0 & f.column1 ? upper_right : V{};
    lower_left = f.row1 & f.column0 ? lower_left : V{}, lower_right = f.row1 & f.column1 ? lower_right : V{};
    const V along_upper = upper_right - upper_left, along_lower = lower_right - lower_left;
    const V upper = upper_left + f.lx * along_upper, lower = lower_left + f.lx * along_lower;
    return {upper + f.ly * (lower - upper), lower - upper, along_upper + f.ly * (along_lower - along_upper)};
  }

 private:
  const int64_t points_;
  const int32_t step_x_;
  Array<int32_t> place_{room()}, right_{room()}, down_{room()};
  Array<R> corner_weights_{4 * room()}, dots_{4 * room()};
  Array<R> weights_{room()};
  Array<Factors> factors_{room() / lanes};
};

}  // namespace internimage
