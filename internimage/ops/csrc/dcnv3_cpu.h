// DCNv3 on the CPU: gathers, and in the backward pass scatters, over the channels of a group. Knows nothing of tensors
// and threads. docs/operator.md explains how and why.
#pragma once

#include <algorithm>
#include <cstdint>

#include "channels_cpu.h"
#include "sampler_cpu.h"

namespace internimage {

constexpr int64_t kStrip = 32;  // columns that the backward pass takes at a time

// Asks for the pixel 8 rows below the one that is sampled around: the rows of a large image come from far away, and the
// first taps to touch them lie too scattered for hardware to see them coming.
template <bool write, typename R>
INTERNIMAGE_INLINE void prefetch(const Geometry& g, const R* image, int64_t channels, int64_t y, int64_t x) {
  const int64_t row = std::min(y * g.stride_h + 8, g.h - 1), column = std::min(x * g.stride_w, g.w - 1);
  const R* const from = image + (row * g.w + column) * g.groups * padded_channels<R>(g.group_channels);
  for (int64_t c = 0; c < channels; c += 64 / int64_t(sizeof(R))) __builtin_prefetch(from + c, write, 2);
}

// The output pixels [begin, end), numbered over all images. `image` [n, h, w, groups * padded_group_channels].
template <typename T>
void dcnv3_forward(const Geometry& g, const Real<T>* image, const T* offset, const T* mask, T* output, int64_t begin,
                   int64_t end) {
  using R = Real<T>;
  const int64_t padded = padded_channels<R>(g.group_channels), channels = g.groups * padded, taps = g.taps();
  const int64_t groups = g.groups, count = g.group_channels, last = end * g.channels();
  const Array<R> spare((g.w + 1) * channels + padded);
  const Corners corners(g.h, g.w, channels * int64_t(sizeof(R)));
  Sampler<T> sampler(g, groups);
  int64_t x = begin % g.out_w, y = begin / g.out_w % g.out_h, n = begin / g.out_w / g.out_h;
  for (int64_t p = begin; p < end; ++p) {
    const R* const first = image + n * g.h * g.w * channels;
    prefetch<false>(g, first, channels, y, x);
    sampler.template prepare<false>(offset + p * g.offset_stride, mask + p * g.mask_stride, y, x,
                                    bytes_between(first, spare.data()));
    for_runs<kVectorBytes, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
      const auto all_groups = [&](auto fixed) __attribute__((always_inline)) {
        for (int64_t group = 0; group < groups; ++group) {
          const int64_t at = (p * groups + group) * count;
          gather<decltype(vector), vectors, fixed>(sampler.taps_of(group), taps, &corners, 1, first + c, output + at + c,
                                                   count - c, room(c, count, last - at));
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

// The gradients of the groups [begin, end), numbered over all images: no two calls write to one place, so any number
// of threads gives the same bits. `grad_image`, of the form of `image`, is zero at first.
template <typename T>
void dcnv3_backward(const Geometry& g, const T* grad_output, const Real<T>* image, const T* offset, const T* mask,
                    Real<T>* grad_image, T* grad_offset, T* grad_mask, int64_t begin, int64_t end) {
  using R = Real<T>;
  const int64_t padded = padded_channels<R>(g.group_channels), taps = g.taps();
  const int64_t channels = g.groups * padded, count = g.group_channels, last = g.output_pixels() * g.channels();
  const Corners corners(g.h, g.w, channels * int64_t(sizeof(R)));
  const int64_t to_grad = bytes_between(image, static_cast<const R*>(grad_image));
  while (begin < end) {
    const int64_t n = begin / g.groups, first_group = begin % g.groups, first_tap = first_group * taps;
    const int64_t groups = std::min(g.groups - first_group, end - begin);
    begin += groups;
    const int64_t start = n * g.h * g.w * g.groups * padded + first_group * padded;
    Sampler<T> sampler(g, groups);
    // Strip by strip, so that the rows which the taps reach stay in a core's own caches, that of pages included.
    for (int64_t left = 0; left < g.out_w; left += kStrip) {
      const int64_t right = std::min(left + kStrip, g.out_w);
      for (int64_t y = 0; y < g.out_h; ++y) {
        for (int64_t x = left; x < right; ++x) {
          const int64_t p = (n * g.out_h + y) * g.out_w + x;
          prefetch<false>(g, image + start, groups * padded, y, x);
          prefetch<true>(g, grad_image + start, groups * padded, y, x);
          sampler.template prepare<true>(offset + p * g.offset_stride + 2 * first_tap,
                                         mask + p * g.mask_stride + first_tap, y, x, 0);
          // Wider vectors are slower here: what limits is how soon a store can be loaded again.
          for_runs<32, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
            const auto all_groups = [&](auto add_dots, auto fixed) __attribute__((always_inline)) {
              for (int64_t group = 0; group < groups; ++group) {
                const int64_t from = (p * g.groups + first_group + group) * count + c;
                const Taps<R> taps_of_group = sampler.taps_of(group);
                decltype(vector) grad[decltype(vectors)::value];
                load_scaled(grad_output + from, count - c, last - from, taps_of_group.scale, grad);
                scatter<add_dots, fixed>(taps_of_group, taps, &corners, 1, image + start + c, to_grad, grad);
              }
            };
            constexpr std::integral_constant<int, 0> any;
            if (c > 0) return all_groups(std::true_type{}, any);
            if (taps != 9) return all_groups(std::false_type{}, any);
            all_groups(std::false_type{}, std::integral_constant<int, 9>{});
          });
          const int64_t at = p * g.groups * taps + first_tap;
          sampler.gradients(grad_offset + 2 * at, grad_mask + at);
        }
      }
    }
  }
}

}  // namespace internimage
