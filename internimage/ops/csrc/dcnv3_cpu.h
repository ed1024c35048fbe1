// DCNv3 on the CPU, vectorised twice: over the taps of a pixel while their places and weights are prepared, then over
// the channels of a group, which are contiguous, while they are gathered. Knows nothing of tensors and threads.
//
// No branch depends on where a point lies. A point outside the window reads, and in the backward pass writes, a spare
// buffer; a neighbour outside the image is replaced by the one beside it, with weight zero.
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

// What the gather must know of a vector's worth of taps. One tap's numbers lie at fixed distances from each other, so
// that a single register addresses them.
template <typename R>
struct alignas(64) Neighbours {
  static constexpr int lanes = Simd<R>::lanes;

  R corner[4][lanes];     // what the upper left, upper right, lower left and lower right neighbours count
  int32_t place[lanes];   // number of the upper left one among the image's pixels; -1: outside the window
  int32_t step_y[lanes];  // elements from there to the lower and to the right neighbour; 0 at an edge
  int32_t step_x[lanes];
};

// What the backward pass needs besides.
template <typename R>
struct Factors {
  using V = typename Simd<R>::Vector;

  V weight_y[2], weight_x[2];              // whose products are the corners' weights, without the mask
  V row[2], column[2];                     // 1 where they exist, else 0
  R dot[4 * Simd<R>::lanes];               // a tap's four sums over channels, one for each corner
};

// The sampling points of one output pixel, group after group, as arrays that end on a whole vector; one per thread.
template <typename R>
struct Taps {
  using S = Simd<R>;
  using V = typename S::Vector;
  using Int = typename S::Int;

  const int64_t per_group, points, size;
  std::vector<Neighbours<R>> neighbours;
  std::vector<Factors<R>> factors;
  std::vector<R> grid_y, grid_x;  // places on the regular grid
  std::vector<R> offset;          // x, y, x, y, ...; in the backward pass then their gradients
  std::vector<R> weight;          // mask, after softmax where asked for
  std::vector<R> grad_weight;

  Taps(const Geometry& g, int64_t groups)
      : per_group(g.taps()),
        points(groups * per_group),
        size((points + S::lanes - 1) / S::lanes * S::lanes),
        neighbours(size / S::lanes),
        factors(size / S::lanes),
        grid_y(size),
        grid_x(size),
        offset(2 * size),
        weight(size),
        grad_weight(size) {
    for (int64_t t = 0; t < size; ++t) {
      int64_t tap = t % per_group;  // x is the outer loop
      if (g.remove_center && tap >= g.kernel_w / 2 * g.kernel_h + g.kernel_h / 2) ++tap;
      grid_y[t] = R(tap % g.kernel_h * g.dilation_h - anchor_y(g));
      grid_x[t] = R(tap / g.kernel_h * g.dilation_w - anchor_x(g));
    }
  }

  static int64_t anchor_y(const Geometry& g) { return g.dilation_h * (g.kernel_h - 1) / 2; }
  static int64_t anchor_x(const Geometry& g) { return g.dilation_w * (g.kernel_w - 1) / 2; }

  // Reads a pixel's offsets and mask (or logits).
  template <typename T>
  void read(const T* offset_of_pixel, const T* mask_of_pixel, bool softmax) {
    copy(offset_of_pixel, offset.data(), 2 * points);
    copy(mask_of_pixel, weight.data(), points);
    if (softmax) normalise();
  }

  template <typename From, typename To>
  static void copy(const From* from, To* to, int64_t count) {
    int64_t i = 0;
    for (; i + S::lanes <= count; i += S::lanes) store(to + i, load<V>(from + i));
    for (; i < count; ++i) to[i] = To(from[i]);
  }

  void normalise() {
    for (R* w = weight.data(); w < weight.data() + points; w += per_group) {
      R highest = w[0];
      for (int64_t k = 1; k < per_group; ++k) highest = w[k] > highest ? w[k] : highest;
      for (int64_t k = 0; k < per_group; ++k) w[k] -= highest;
    }
    for (int64_t t = 0; t < size; t += S::lanes) store(&weight[t], exp_of(load<V>(&weight[t])));
    for (R* w = weight.data(); w < weight.data() + points; w += per_group) {
      R sum = 0;
      for (int64_t k = 0; k < per_group; ++k) sum += w[k];
      const R scale = 1 / sum;
      for (int64_t k = 0; k < per_group; ++k) w[k] *= scale;
    }
  }

  // Finds the points' neighbours; `keep_factors` for the backward pass.
  template <bool keep_factors>
  void locate_points(const Geometry& g, int64_t out_y, int64_t out_x) {
    const V zero{}, one = zero + R(1);
    const V height = zero + R(g.h), width = zero + R(g.w), scale = zero + R(g.offset_scale);
    const V base_y = zero + R(out_y * g.stride_h - g.pad_h + anchor_y(g));
    const V base_x = zero + R(out_x * g.stride_w - g.pad_w + anchor_x(g));
    const int32_t channels = int32_t(g.channels()), row_step = int32_t(g.w * g.channels());
    for (int64_t t = 0; t < size; t += S::lanes) {
      const V o0 = load<V>(&offset[2 * t]), o1 = load<V>(&offset[2 * t + S::lanes]);
      const V y = base_y + scale * (load<V>(&grid_y[t]) + S::odd(o0, o1));
      const V x = base_x + scale * (load<V>(&grid_x[t]) + S::even(o0, o1));
      const BilinearCell<V> cell = locate(y, x, height, width);
      const V wy0 = cell.row0 ? one - cell.ly : zero, wy1 = cell.row1 ? cell.ly : zero;
      const V wx0 = cell.column0 ? one - cell.lx : zero, wx1 = cell.column1 ? cell.lx : zero;
      const V w = load<V>(&weight[t]);
      const V upper = w * wy0, lower = w * wy1;
      Neighbours<R>& n = neighbours[t / S::lanes];
      store(n.corner[0], upper * wx0), store(n.corner[1], upper * wx1);
      store(n.corner[2], lower * wx0), store(n.corner[3], lower * wx1);
      const auto lanes32 = [](auto mask) { return __builtin_convertvector(mask, Int); };
      const Int iy = __builtin_convertvector(cell.y0 > zero ? cell.y0 : zero, Int);
      const Int ix = __builtin_convertvector(cell.x0 > zero ? cell.x0 : zero, Int);
      store(n.place, (iy * int32_t(g.w) + ix) | ~lanes32(cell.in_window));
      store(n.step_y, lanes32(cell.row0 & cell.row1) & row_step);
      store(n.step_x, lanes32(cell.column0 & cell.column1) & channels);
      if constexpr (keep_factors) {
        Factors<R>& f = factors[t / S::lanes];
        f.weight_y[0] = wy0, f.weight_y[1] = wy1, f.weight_x[0] = wx0, f.weight_x[1] = wx1;
        f.row[0] = cell.row0 ? one : zero, f.row[1] = cell.row1 ? one : zero;
        f.column[0] = cell.column0 ? one : zero, f.column[1] = cell.column1 ? one : zero;
      }
    }
  }

  // From the dots: the gradients of mask (or logits) and of offset, the latter in place of the offsets.
  void finish_gradients(const Geometry& g) {
    for (int64_t t = 0; t < size; t += S::lanes) {
      const Factors<R>& f = factors[t / S::lanes];
      const V a = load<V>(f.dot), b = load<V>(f.dot + S::lanes);
      const V c = load<V>(f.dot + 2 * S::lanes), d = load<V>(f.dot + 3 * S::lanes);
      const V even_ab = S::even(a, b), odd_ab = S::odd(a, b), even_cd = S::even(c, d), odd_cd = S::odd(c, d);
      const V d00 = S::even(even_ab, even_cd), d10 = S::odd(even_ab, even_cd);
      const V d01 = S::even(odd_ab, odd_cd), d11 = S::odd(odd_ab, odd_cd);
      const V upper = f.weight_x[0] * d00 + f.weight_x[1] * d01, lower = f.weight_x[0] * d10 + f.weight_x[1] * d11;
      store(&grad_weight[t], f.weight_y[0] * upper + f.weight_y[1] * lower);
      const V scaled = load<V>(&weight[t]) * R(g.offset_scale);
      const V x = scaled * (f.weight_y[0] * (f.column[1] * d01 - f.column[0] * d00) +
                            f.weight_y[1] * (f.column[1] * d11 - f.column[0] * d10));
      const V y = scaled * (f.weight_x[0] * (f.row[1] * d10 - f.row[0] * d00) +
                            f.weight_x[1] * (f.row[1] * d11 - f.row[0] * d01));
      store(&offset[2 * t], S::interleave_low(x, y));
      store(&offset[2 * t + S::lanes], S::interleave_high(x, y));
    }
    if (!g.softmax) return;
    for (int64_t first = 0; first < points; first += per_group) {
      R mean = 0;
      for (int64_t k = first; k < first + per_group; ++k) mean += weight[k] * grad_weight[k];
      for (int64_t k = first; k < first + per_group; ++k) grad_weight[k] = weight[k] * (grad_weight[k] - mean);
    }
  }
};

// Finds the pixels of an image, and for a point outside a spare one: as many channels, all zero.
template <typename T>
class Image {
 public:
  Image(T* first, T* spare, int64_t channels)
      : first_(reinterpret_cast<intptr_t>(first)),
        to_spare_(reinterpret_cast<intptr_t>(spare) - first_),
        pixel_(channels * int64_t(sizeof(T))) {}

  // Without a branch: at the image's border nobody could predict it.
  INTERNIMAGE_INLINE T* operator[](int32_t place) const {
    const int64_t outside = place >> 31;  // all bits or none
    return reinterpret_cast<T*>(first_ + ((place * pixel_ & ~outside) | (to_spare_ & outside)));
  }

  // The same from channel c on.
  Image from_channel(int64_t c) const {
    Image other = *this;
    other.first_ += c * int64_t(sizeof(T));
    return other;
  }

 private:
  intptr_t first_;
  int64_t to_spare_, pixel_;
};

// Sums the first `vectors` vectors of channels over the taps [first, first + per_group).
template <int vectors, typename T>
INTERNIMAGE_INLINE void gather_channels(const Taps<Real<T>>& taps, int64_t first, Image<const T> image, T* output) {
  using V = typename Taps<Real<T>>::V;
  constexpr int lanes = Simd<Real<T>>::lanes;
  constexpr int chains = vectors <= 2 ? 4 : 2;  // independent sums, for the latency of an addition
  V sum[chains][vectors] = {};
  for (size_t t = first, end = first + taps.per_group; t < end; ++t) {
    const Neighbours<Real<T>>& n = taps.neighbours[t / lanes];
    const size_t k = t % lanes;
    const T* const pixel = image[n.place[k]];
    const int64_t step_y = n.step_y[k], step_x = n.step_x[k];
    for (int i = 0; i < 4; ++i) {
      const T* const neighbour = pixel + (i & 2 ? step_y : 0) + (i & 1 ? step_x : 0);
      for (int v = 0; v < vectors; ++v) sum[i % chains][v] += load<V>(neighbour + v * lanes) * n.corner[i][k];
    }
  }
  for (int v = 0; v < vectors; ++v) {
    V total = sum[0][v] + sum[1][v];
    if constexpr (chains == 4) total += sum[2][v] + sum[3][v];
    store(output + v * lanes, total);
  }
}

// The same for all channels of a group, to which `image` has been moved.
template <typename T>
void gather_group(const Taps<Real<T>>& taps, int64_t first, const Image<const T>& image, int64_t count, T* output) {
  constexpr int lanes = Simd<Real<T>>::lanes;
  int64_t c = 0;
  for (; c + 4 * lanes <= count; c += 4 * lanes) gather_channels<4>(taps, first, image.from_channel(c), output + c);
  if (c + 2 * lanes <= count) {
    gather_channels<2>(taps, first, image.from_channel(c), output + c);
    c += 2 * lanes;
  }
  if (c + lanes <= count) {
    gather_channels<1>(taps, first, image.from_channel(c), output + c);
    c += lanes;
  }
  for (; c < count; ++c) {
    Real<T> sum = 0;
    for (size_t t = first, end = first + taps.per_group; t < end; ++t) {
      const Neighbours<Real<T>>& n = taps.neighbours[t / lanes];
      const size_t k = t % lanes;
      const T* const pixel = image[n.place[k]] + c;
      const int64_t step_y = n.step_y[k], step_x = n.step_x[k];
      sum += Real<T>(pixel[0]) * n.corner[0][k] + Real<T>(pixel[step_x]) * n.corner[1][k] +
             Real<T>(pixel[step_y]) * n.corner[2][k] + Real<T>(pixel[step_y + step_x]) * n.corner[3][k];
    }
    output[c] = T(sum);
  }
}

// The output pixels [begin, end), numbered over all images.
template <typename T>
void dcnv3_forward(const Geometry& g, const T* input, const T* offset, const T* mask, T* output, int64_t begin,
                   int64_t end) {
  const int64_t channels = g.channels();
  Taps<Real<T>> taps(g, g.groups);
  const std::vector<T> spare(channels, T(0));
  for (int64_t p = begin; p < end; ++p) {
    const Image<const T> image(input + p / (g.out_h * g.out_w) * g.h * g.w * channels, spare.data(), channels);
    taps.read(offset + p * g.offset_stride, mask + p * g.mask_stride, g.softmax);
    taps.template locate_points<false>(g, p / g.out_w % g.out_h, p % g.out_w);
    for (int64_t group = 0; group < g.groups; ++group) {
      const int64_t c = group * g.group_channels;
      gather_group(taps, group * taps.per_group, image.from_channel(c), g.group_channels, output + p * channels + c);
    }
  }
}

// For the tap t of one group: adds grad x corner weight to the neighbours' gradient, and takes the dot product of grad
// with each neighbour. `vectors` whole vectors of channels where it is known at compile time, else 0.
template <int vectors, typename T, typename R>
INTERNIMAGE_INLINE void scatter_tap(Taps<R>& taps, size_t t, const Image<const T>& image,
                                    const Image<R>& grad_image, int64_t count, const R* grad) {
  using V = typename Taps<R>::V;
  constexpr int lanes = Simd<R>::lanes;
  const Neighbours<R>& n = taps.neighbours[t / lanes];
  const size_t k = t % lanes;
  const T* const pixel = image[n.place[k]];
  R* const grad_pixel = grad_image[n.place[k]];
  const int64_t step_y = n.step_y[k], step_x = n.step_x[k];
  const int64_t whole = vectors ? vectors * lanes : count / lanes * lanes;
  V sum[4] = {};
  R rest[4] = {};
  for (int i = 0; i < 4; ++i) {
    const int64_t at = (i & 2 ? step_y : 0) + (i & 1 ? step_x : 0);
    const R weight = n.corner[i][k];
    for (int64_t v = 0; v < whole; v += lanes) {
      const V g = load<V>(grad + v);
      sum[i] += g * load<V>(pixel + at + v);
      store(grad_pixel + at + v, load<V>(grad_pixel + at + v) + g * weight);
    }
    if constexpr (vectors == 0) {
      for (int64_t j = whole; j < count; ++j) {
        rest[i] += grad[j] * R(pixel[at + j]);
        grad_pixel[at + j] += grad[j] * weight;
      }
    }
  }
  R* const dot = taps.factors[t / lanes].dot + 4 * k;
  Simd<R>::sums(sum[0], sum[1], sum[2], sum[3], dot);
  if constexpr (vectors == 0) {
    for (int i = 0; i < 4; ++i) dot[i] += rest[i];
  }
}

template <typename T, typename R>
void scatter_group(Taps<R>& taps, int64_t first, const Image<const T>& image, const Image<R>& grad_image,
                   int64_t count, const R* grad) {
  const auto each_tap = [&](auto vectors) {
    for (size_t t = first, end = first + taps.per_group; t < end; ++t) {
      scatter_tap<decltype(vectors)::value>(taps, t, image, grad_image, count, grad);
    }
  };
  constexpr int lanes = Simd<R>::lanes;
  switch (count % lanes ? 0 : count / lanes) {
    case 1: return each_tap(std::integral_constant<int, 1>{});
    case 2: return each_tap(std::integral_constant<int, 2>{});
    case 4: return each_tap(std::integral_constant<int, 4>{});
    default: return each_tap(std::integral_constant<int, 0>{});
  }
}

// The gradients of the groups [begin, end), numbered over all images: no two calls write to one place, so any number
// of threads gives the same bits. `grad_input` is zero at first.
template <typename T>
void dcnv3_backward(const Geometry& g, const T* grad_output, const T* input, const T* offset, const T* mask,
                    Real<T>* grad_input, T* grad_offset, T* grad_mask, int64_t begin, int64_t end) {
  using R = Real<T>;
  const int64_t channels = g.channels(), taps_per_group = g.taps();
  const std::vector<T> spare(channels, T(0));
  std::vector<R> grad_spare(channels), grad(channels);
  while (begin < end) {
    const int64_t number = begin / g.groups, first_group = begin % g.groups;
    const int64_t groups = std::min(g.groups - first_group, end - begin);
    begin += groups;
    Taps<R> taps(g, groups);
    const int64_t first_channel = first_group * g.group_channels, first_tap = first_group * taps_per_group;
    const int64_t image_start = number * g.h * g.w * channels + first_channel;
    const Image<const T> image(input + image_start, spare.data(), channels);
    const Image<R> grad_image(grad_input + image_start, grad_spare.data(), channels);
    for (int64_t q = 0; q < g.out_h; ++q) {
      for (int64_t r = 0; r < g.out_w; ++r) {
        const int64_t p = (number * g.out_h + q) * g.out_w + r;
        taps.read(offset + p * g.offset_stride + 2 * first_tap, mask + p * g.mask_stride + first_tap, g.softmax);
        taps.template locate_points<true>(g, q, r);
        Taps<R>::copy(grad_output + p * channels + first_channel, grad.data(), groups * g.group_channels);
        for (int64_t group = 0; group < groups; ++group) {
          const int64_t c = group * g.group_channels;
          scatter_group(taps, group * taps_per_group, image.from_channel(c), grad_image.from_channel(c), g.group_channels,
                        grad.data() + c);
        }
        taps.finish_gradients(g);
        const int64_t at = p * g.groups * taps_per_group + first_tap;
        Taps<R>::copy(taps.offset.data(), grad_offset + 2 * at, 2 * taps.points);
        Taps<R>::copy(taps.grad_weight.data(), grad_mask + at, taps.points);
      }
    }
  }
}

}  // namespace internimage
