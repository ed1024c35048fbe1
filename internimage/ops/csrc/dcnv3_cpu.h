// DCNv3 on the CPU: gathers, and in the backward pass scatters, over the channels of a group, which are contiguous.
// Knows nothing of tensors and threads. docs/operator.md explains how and why.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sampler_cpu.h"

namespace internimage {

// Whether a tensor can be sampled as it is; else `pack` makes an image of it.
template <typename T>
bool is_image(const Geometry& g) {
  return std::is_same_v<T, Real<T>> && g.group_channels == padded_group_channels<Real<T>>(g);
}

// Copies the pixels [begin, end) of a tensor [..., groups * group_channels] into an image.
template <typename T>
void pack(const Geometry& g, const T* from, Real<T>* to, int64_t begin, int64_t end) {
  using V = Vector<Real<T>, 32 / sizeof(Real<T>)>;
  const int64_t count = g.group_channels, padded = padded_group_channels<Real<T>>(g);
  for (int64_t group = begin * g.groups; group < end * g.groups; ++group) {
    const T* const source = from + group * count;
    Real<T>* const target = to + group * padded;
    int64_t c = 0;
    for (; c + kLanes<V> <= count; c += kLanes<V>) store(target + c, load<V>(source + c));
    for (; c < count; ++c) target[c] = Real<T>(source[c]);
    std::fill(target + c, target + padded, Real<T>(0));
  }
}

// The inverse.
template <typename T>
void unpack(const Geometry& g, const Real<T>* from, T* to, int64_t begin, int64_t end) {
  using V = Vector<Real<T>, 32 / sizeof(Real<T>)>;
  const int64_t count = g.group_channels, padded = padded_group_channels<Real<T>>(g);
  for (int64_t group = begin * g.groups; group < end * g.groups; ++group) {
    const Real<T>* const source = from + group * padded;
    T* const target = to + group * count;
    int64_t c = 0;
    for (; c + kLanes<V> <= count; c += kLanes<V>) store(target + c, load<V>(source + c));
    for (; c < count; ++c) target[c] = T(source[c]);
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

// Asks for the pixel 8 rows below the one that is sampled around: the rows of a large image come from far away, and the
// first taps to touch them lie too scattered for hardware to see them coming.
template <bool write, typename R>
INTERNIMAGE_INLINE void prefetch(const Geometry& g, const R* image, int64_t channels, int64_t y, int64_t x) {
  const int64_t row = std::min(y * g.stride_h + 8, g.h - 1), column = std::min(x * g.stride_w, g.w - 1);
  const R* const from = image + (row * g.w + column) * g.groups * padded_group_channels<R>(g);
  for (int64_t c = 0; c < channels; c += 64 / int64_t(sizeof(R))) __builtin_prefetch(from + c, write, 2);
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

// The output pixels [begin, end), numbered over all images. `image` [n, h, w, groups * padded_group_channels].
template <typename T>
void dcnv3_forward(const Geometry& g, const Real<T>* image, const T* offset, const T* mask, T* output, int64_t begin,
                   int64_t end) {
  using R = Real<T>;
  const int64_t padded = padded_group_channels<R>(g), channels = g.groups * padded, taps = g.taps();
  const Array<R> spare(padded);
  Sampler<T> sampler(g, g.groups);
  int64_t x = begin % g.out_w, y = begin / g.out_w % g.out_h, n = begin / g.out_w / g.out_h;
  for (int64_t p = begin; p < end; ++p) {
    const R* const first = image + n * g.h * g.w * channels;
    prefetch<false>(g, first, channels, y, x);
    sampler.template prepare<false>(offset + p * g.offset_stride, mask + p * g.mask_stride, y, x);
    for_runs<kVectorBytes, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
      const auto all_groups = [&](auto fixed) __attribute__((always_inline)) {
        T* to = output + p * g.channels() + c;
        for (int64_t group = 0; group < g.groups; ++group, to += g.group_channels) {
          gather<decltype(vector), vectors, fixed>(sampler.taps_of(group), taps, first + c, spare.data(), to,
                                                   g.group_channels - c);
        }
      };
      taps == 9 ? all_groups(std::integral_constant<int, 9>{}) : all_groups(std::integral_constant<int, 0>{});
    });
    if (++x < g.out_w) continue;
    x = 0;
    if (++y < g.out_h) continue;
    y = 0, ++n;
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

// The gradients of the groups [begin, end), numbered over all images: no two calls write to one place, so any number
// of threads gives the same bits. `grad_image`, of the form of `image`, is zero at first.
template <typename T>
void dcnv3_backward(const Geometry& g, const T* grad_output, const Real<T>* image, const T* offset, const T* mask,
                    Real<T>* grad_image, T* grad_offset, T* grad_mask, int64_t begin, int64_t end) {
  using R = Real<T>;
  const int64_t padded = padded_group_channels<R>(g), taps = g.taps();
  // One for each tap: that a store is loaded again at once would cost more than it takes.
  const Array<R> spare(taps * padded);
  Array<R> grad_spare(taps * padded);
  while (begin < end) {
    const int64_t n = begin / g.groups, first_group = begin % g.groups, first_tap = first_group * taps;
    const int64_t groups = std::min(g.groups - first_group, end - begin);
    begin += groups;
    const int64_t start = n * g.h * g.w * g.groups * padded + first_group * padded;
    Sampler<T> sampler(g, groups);
    for (int64_t y = 0; y < g.out_h; ++y) {
      for (int64_t x = 0; x < g.out_w; ++x) {
        const int64_t p = (n * g.out_h + y) * g.out_w + x;
        prefetch<false>(g, image + start, groups * padded, y, x);
        prefetch<true>(g, grad_image + start, groups * padded, y, x);
        sampler.template prepare<true>(offset + p * g.offset_stride + 2 * first_tap,
                                       mask + p * g.mask_stride + first_tap, y, x);
        // Wider vectors are slower here: what limits is how soon a store can be loaded again.
        for_runs<32, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
          const auto all_groups = [&](auto add_dots) __attribute__((always_inline)) {
            const T* from = grad_output + p * g.channels() + first_group * g.group_channels + c;
            for (int64_t group = 0; group < groups; ++group, from += g.group_channels) {
              const Taps<R> taps_of_group = sampler.taps_of(group);
              decltype(vector) grad[decltype(vectors)::value];
              load_scaled(from, g.group_channels - c, taps_of_group.scale, grad);
              scatter<add_dots>(taps_of_group, taps, image + start + c, spare.data(), grad_image + start + c,
                                grad_spare.data(), padded, grad);
            }
          };
          c == 0 ? all_groups(std::false_type{}) : all_groups(std::true_type{});
        });
        const int64_t at = p * g.groups * taps + first_tap;
        sampler.gradients(grad_offset + 2 * at, grad_mask + at);
      }
    }
  }
}

}  // namespace internimage
