// The channels of groups on the CPU, which are contiguous: images of them, and what gathers from and scatters to an image
// at the points of points_cpu.h. Knows nothing of operators, tensors and threads. docs/operator.md explains how and why.
#pragma once

#include <algorithm>
#include <cstdint>

#include "points_cpu.h"

namespace internimage {

// Images are sampled in arithmetic type, with the channels of each group filled up to whole vectors of 32 bytes.
template <typename R>
int64_t padded_channels(int64_t channels) {
  constexpr int64_t unit = 32 / int64_t(sizeof(R));
  return (channels + unit - 1) / unit * unit;
}

// Places from an image's first group to its end; the kernels need them below 2^31.
template <typename R>
int64_t places_of(int64_t groups, int64_t channels) {
  return groups * padded_channels<R>(channels) * int64_t(sizeof(R)) / kPlaceBytes;
}

// Whether a tensor can be sampled as it is; else `pack` makes an image of it.
template <typename T>
bool is_image(int64_t channels) {
  return std::is_same_v<T, Real<T>> && channels == padded_channels<Real<T>>(channels);
}

// Copies the groups [begin, end), numbered over all pixels, of a tensor with `channels` a group into an image.
template <typename T>
void pack(int64_t channels, const T* from, Real<T>* to, int64_t begin, int64_t end) {
  using V = Vector<Real<T>, 32 / sizeof(Real<T>)>;
  const int64_t padded = padded_channels<Real<T>>(channels);
  for (int64_t group = begin; group < end; ++group) {
    const T* const source = from + group * channels;
    Real<T>* const target = to + group * padded;
    int64_t c = 0;
    for (; c + kLanes<V> <= channels; c += kLanes<V>) store(target + c, load<V>(source + c));
    for (; c < channels; ++c) target[c] = Real<T>(source[c]);
    std::fill(target + c, target + padded, Real<T>(0));
  }
}

// The inverse.
template <typename T>
void unpack(int64_t channels, const Real<T>* from, T* to, int64_t begin, int64_t end) {
  using V = Vector<Real<T>, 32 / sizeof(Real<T>)>;
  const int64_t padded = padded_channels<Real<T>>(channels);
  for (int64_t group = begin; group < end; ++group) {
    const Real<T>* const source = from + group * padded;
    T* const target = to + group * channels;
    int64_t c = 0;
    for (; c + kLanes<V> <= channels; c += kLanes<V>) store(target + c, load<V>(source + c));
    for (; c < channels; ++c) target[c] = T(source[c]);
  }
}

// Cuts the channels of a group into runs of vectors of at most `bytes`: calls f(vector, vectors in the run, first).
template <int bytes, typename R, typename F>
INTERNIMAGE_INLINE void for_runs(int64_t padded, const F& f) {
  using Wide = Vector<R, bytes / sizeof(R)>;
  using Narrow = Vector<R, 32 / sizeof(R)>;
  constexpr int lanes = kLanes<Wide>;
  int64_t c = 0;
  for (; c + 4 * lanes <= padded; c += 4 * lanes) f(Wide{}, std::integral_constant<int, 4>{}, c);
  if (c + 2 * lanes <= padded) f(Wide{}, std::integral_constant<int, 2>{}, c), c += 2 * lanes;
  if (c + lanes <= padded) f(Wide{}, std::integral_constant<int, 1>{}, c), c += lanes;
  if constexpr (bytes > 32) {
    if (c < padded) f(Narrow{}, std::integral_constant<int, 1>{}, c);
  }
}

// Calls f with the constants 0 to 3: the upper left, upper right, lower left and lower right neighbour.
template <typename F>
INTERNIMAGE_INLINE void for_neighbours(const F& f) {
  f(std::integral_constant<int, 0>{}), f(std::integral_constant<int, 1>{});
  f(std::integral_constant<int, 2>{}), f(std::integral_constant<int, 3>{});
}

// Sums `vectors` vectors of channels over the `number` taps of a group, and stores the first `count` channels. `fixed`:
// that number, so that a compiler can unroll the loop, or 0.
template <typename V, int vectors, int fixed, typename T>
INTERNIMAGE_INLINE void gather(Taps<Lane<V>> taps, int64_t number, const Lane<V>* image, const Lane<V>* spare, T* output,
                               int64_t count) {
  constexpr int lanes = kLanes<V>;
  constexpr int chains = vectors <= 2 ? 4 : 2;  // independent sums, for the latency of an addition
  if (fixed) number = fixed;
  V sum[chains][vectors] = {};
#pragma GCC unroll 9
  for (int64_t t = 0; t < number; ++t) {
    const Lane<V>* at[4];
    taps.neighbours(t, image, spare, at);
    const V weights = repeat_four<V>(taps.weights + 4 * t);
    for_neighbours([&](auto i) __attribute__((always_inline)) {
      const V weight = one_of_four<i>(weights);
      for (int v = 0; v < vectors; ++v) sum[i % chains][v] += weight * load<V>(at[i] + v * lanes);
    });
  }
  for (int i = 1; i < chains; ++i) {
    for (int v = 0; v < vectors; ++v) sum[0][v] += sum[i][v];
  }
  if (count >= vectors * lanes) {
    for (int v = 0; v < vectors; ++v) store(output + v * lanes, sum[0][v] * taps.scale);
  } else {
    Lane<V> all[vectors * lanes];
    for (int v = 0; v < vectors; ++v) store(all + v * lanes, sum[0][v] * taps.scale);
    std::copy_n(all, count, output);
  }
}

// Adds grad x weight to the gradient of each neighbour, and takes the dot product of grad with each neighbour; added to
// what there is if `add_dots`.
template <bool add_dots, typename V, int vectors>
INTERNIMAGE_INLINE void scatter(Taps<Lane<V>> taps, int64_t number, const Lane<V>* image, const Lane<V>* spare,
                                Lane<V>* grad_image, Lane<V>* grad_spare, int64_t spare_stride,
                                const V (&grad)[vectors]) {
  using R = Lane<V>;
  constexpr int lanes = kLanes<V>;
  const intptr_t inside = reinterpret_cast<intptr_t>(grad_image) - reinterpret_cast<intptr_t>(image);
  const intptr_t outside = reinterpret_cast<intptr_t>(grad_spare) - reinterpret_cast<intptr_t>(spare);
  for (int64_t t = 0; t < number; ++t, spare += spare_stride) {
    const R* at[4];
    taps.neighbours(t, image, spare, at);
    const intptr_t to_grad = taps.place[t] < 0 ? outside : inside;
    const V weights = repeat_four<V>(taps.weights + 4 * t);
    V dots[4];
    for_neighbours([&](auto i) __attribute__((always_inline)) {
      const V weight = one_of_four<i>(weights);
      R* const grad_pixel = reinterpret_cast<R*>(reinterpret_cast<intptr_t>(at[i]) + to_grad);
      dots[i] = grad[0] * load<V>(at[i]);
      for (int v = 1; v < vectors; ++v) dots[i] += grad[v] * load<V>(at[i] + v * lanes);
      for (int v = 0; v < vectors; ++v) {
        store(grad_pixel + v * lanes, load<V>(grad_pixel + v * lanes) + grad[v] * weight);
      }
    });
    put_sums<add_dots>(dots[0], dots[1], dots[2], dots[3], taps.dots + 4 * t);
  }
}

// `vectors` vectors of channels of which `count` exist, the others zero, times `scale`.
template <typename V, int vectors, typename T>
INTERNIMAGE_INLINE void load_scaled(const T* from, int64_t count, Lane<V> scale, V (&to)[vectors]) {
  constexpr int lanes = kLanes<V>;
  if (count >= vectors * lanes) {
    for (int v = 0; v < vectors; ++v) to[v] = load<V>(from + v * lanes) * scale;
  } else {
    Lane<V> all[vectors * lanes] = {};
    for (int64_t c = 0; c < count; ++c) all[c] = Lane<V>(from[c]);
    for (int v = 0; v < vectors; ++v) to[v] = load<V>(all + v * lanes) * scale;
  }
}

}  // namespace internimage
