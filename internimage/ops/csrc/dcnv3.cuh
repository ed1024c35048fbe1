// DCNv3 on CUDA: the kernels. Includes nothing of torch. InternImage (CVPR 2023), Eq. 2.
//
// Tensors are channels last. Taps run column by column (x is the outer loop), as in the released weights. Halves are
// read and written as such; all arithmetic is float32. 32 bits number what lies within an image, 64 bits the rest.
#pragma once

#include <cstdint>

#include "bilinear.h"
#include "cuda_lanes.cuh"
#include "cuda_samples.cuh"
#include "geometry.h"

namespace internimage {

// A Geometry and a Part as the kernels read them.
template <typename Real>
struct Layout {
  int work;                          // items; a thread takes one after the other
  int64_t first_image, first_pixel;  // of the part
  int first_row;
  Divisor rows, out_w, groups, taps, kernel_h;
  Divisor team;   // items that share one output pixel and group: threads with channels of their own
  Divisor bands;  // dcnv3_backward_input_in_order: parts of an image that have owners of their own
  int band_rows;  // and how many rows of the image each has
  int h, w, out_h, group_channels, channels, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int anchor_h, anchor_w;  // the tap that is not displaced; floor: an even kernel's grid is one-sided
  int origin_y, origin_x;  // its place for the first output pixel
  int64_t offset_stride, mask_stride;
  Real offset_scale;
  bool remove_center, softmax;
  bool offset_pairs;  // the offsets of a point, and their gradients, may move as one word

  Layout(const Geometry& g, const Part& part, int64_t work, int64_t team, bool offset_pairs, int64_t bands = 1)
      : work(int(work)), first_image(part.first_image),
        first_pixel((part.first_image * g.out_h + part.first_row) * g.out_w), first_row(int(part.first_row)),
        rows(part.rows), out_w(g.out_w), groups(g.groups), taps(g.taps()), kernel_h(g.kernel_h), team(team),
        bands(bands), band_rows(int((g.h + bands - 1) / bands)), h(int(g.h)), w(int(g.w)), out_h(int(g.out_h)),
        group_channels(int(g.group_channels)), channels(int(g.channels())), kernel_w(int(g.kernel_w)),
        stride_h(int(g.stride_h)), stride_w(int(g.stride_w)), dilation_h(int(g.dilation_h)),
        dilation_w(int(g.dilation_w)), anchor_h(int(g.dilation_h * (g.kernel_h - 1) / 2)),
        anchor_w(int(g.dilation_w * (g.kernel_w - 1) / 2)), origin_y(anchor_h - int(g.pad_h)),
        origin_x(anchor_w - int(g.pad_w)), offset_stride(g.offset_stride), mask_stride(g.mask_stride),
        offset_scale(Real(g.offset_scale)), remove_center(g.remove_center), softmax(g.softmax),
        offset_pairs(offset_pairs) {}

  __device__ __forceinline__ int centre() const { return kernel_w / 2 * int(kernel_h.value) + int(kernel_h.value) / 2; }

  // Of the output; row counts the rows of the part's images, one after the other.
  __device__ __forceinline__ int64_t pixel_of(int row, int column) const {
    return first_pixel + int64_t(row) * out_w.value + column;
  }

  // Of a pixel's first channel, in images and output alike.
  __device__ __forceinline__ int64_t position(int64_t pixel) const { return pixel * channels; }
};

struct Tap {
  int column, row;  // in the kernel
  int slot;         // counted with the centre
  int k;            // among those that there are
};

// Calls body for each tap in order. With k3x3 a column of the kernel is laid out, so that all its loads are under way
// at once; with kWhole the whole kernel is, and the slots are constants.
template <bool k3x3, bool kWhole, typename Real, typename Body>
__device__ __forceinline__ void for_each_tap(const Layout<Real>& g, Body body) {
  const int kernel_w = k3x3 ? 3 : g.kernel_w, kernel_h = k3x3 ? 3 : int(g.kernel_h.value);
  const int centre = k3x3 ? 4 : g.centre();
#pragma unroll (k3x3 && kWhole ? 3 : 1)
  for (int column = 0; column < kernel_w; ++column) {
#pragma unroll (k3x3 ? 3 : 1)
    for (int row = 0; row < kernel_h; ++row) {
      const int slot = column * kernel_h + row;
      if (g.remove_center && slot == centre) continue;
      body(Tap{column, row, slot, slot - (g.remove_center && slot > centre)});
    }
  }
}

template <typename Real>
__device__ __forceinline__ Tap tap_of(const Layout<Real>& g, int k) {
  const int slot = k + (g.remove_center && k >= g.centre());
  const Divisor::Parts in_kernel = g.kernel_h(slot);
  return {in_kernel.quotient, in_kernel.remainder, slot, k};
}

// One output pixel and group: where its offsets and mask lie, and its point in the input.
template <typename T>
struct Place {
  int64_t image;  // which of the batch
  int64_t pixel;  // of the whole output
  int group;
  const T* offset;
  const T* mask;
  Real<T> y, x;

  __device__ __forceinline__ Place(const Layout<Real<T>>& g, int row, int column, int group, const T* offsets,
                                   const T* masks)
      : group(group) {
    const Divisor::Parts in_part = g.rows(row);
    image = g.first_image + in_part.quotient;
    pixel = g.pixel_of(row, column);
    offset = offsets + pixel * g.offset_stride + group * int(g.taps.value) * 2;
    mask = masks + pixel * g.mask_stride + group * int(g.taps.value);
    y = Real<T>((g.first_row + in_part.remainder) * g.stride_h + g.origin_y);
    x = Real<T>(column * g.stride_w + g.origin_x);
  }

  __device__ __forceinline__ BilinearCell<Real<T>> cell(const Layout<Real<T>>& g, const Tap& tap) const {
    Real<T> delta[2];  // x before y
    const T* const from = offset + 2 * tap.k;
    if (g.offset_pairs) {
      load(from, delta);
    } else {
      delta[0] = to_real(__ldg(from));
      delta[1] = to_real(__ldg(from + 1));
    }
    return locate(y + g.offset_scale * (Real<T>(tap.row * g.dilation_h - g.anchor_h) + delta[1]),
                  x + g.offset_scale * (Real<T>(tap.column * g.dilation_w - g.anchor_w) + delta[0]), Real<T>(g.h),
                  Real<T>(g.w));
  }
};

// The place of a thread's item, `member` telling it from those that share the place.
template <typename T>
__device__ __forceinline__ Place<T> place_of(const Layout<Real<T>>& g, int item, const T* offset, const T* mask,
                                             int& member) {
  const Divisor::Parts in_team = g.team(item), in_groups = g.groups(in_team.quotient);
  const Divisor::Parts in_row = g.out_w(in_groups.quotient);
  member = in_team.remainder;
  return Place<T>(g, in_row.quotient, in_row.remainder, in_groups.remainder, offset, mask);
}

// The greatest of a group's logits; 0 where the mask is taken as it is.
template <typename T, bool k3x3>
__device__ __forceinline__ Real<T> peak_of(const Layout<Real<T>>& g, const T* mask) {
  if (!g.softmax) return 0;
  Real<T> peak = to_real(__ldg(mask));
#pragma unroll (k3x3 ? 8 : 1)
  for (int k = 1; k < int(g.taps.value); ++k) peak = max_of(peak, to_real(__ldg(mask + k)));
  return peak;
}

// The weight of a tap: the mask as it is, or what its softmax adds up.
template <typename T>
__device__ __forceinline__ Real<T> weight_of(const Layout<Real<T>>& g, const T* mask, const Tap& tap, Real<T> peak) {
  const Real<T> value = to_real(__ldg(mask + tap.k));
  return g.softmax ? exp_of(value - peak) : value;
}

// The weights of a group's taps: the mask as it is, or its softmax.
template <typename T, bool k3x3>
struct TapWeights {
  const T* mask;
  Real<T> peak, scale = 1;

  __device__ __forceinline__ TapWeights(const Layout<Real<T>>& g, const T* mask)
      : mask(mask), peak(peak_of<T, k3x3>(g, mask)) {
    if (!g.softmax) return;
    Real<T> sum = 0;
    for_each_tap<k3x3, false>(g, [&](const Tap& tap) { sum += weight_of(g, mask, tap, peak); });
    scale = reciprocal_of(sum);
  }

  __device__ __forceinline__ Real<T> operator()(const Layout<Real<T>>& g, const Tap& tap) const {
    return scale * weight_of(g, mask, tap, peak);
  }
};

// A thread computes kLanes channels of one output pixel. 64 registers let four blocks run at once.
template <typename T, int kLanes, bool k3x3>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
dcnv3_forward(const Layout<Real<T>> g, const T* __restrict__ input, const T* __restrict__ offset,
              const T* __restrict__ mask, T* __restrict__ output) {
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    const int item = block + int(threadIdx.x);
    if (item >= g.work) continue;
    int member;
    const Place<T> place = place_of(g, item, offset, mask, member);
    const Real<T> peak = peak_of<T, k3x3>(g, place.mask);
    const int channel = place.group * g.group_channels + member * kLanes;
    const T* const image = input + (g.position(place.image * (int64_t(g.h) * g.w)) + channel);
    Real<T> sum[kLanes] = {}, sum_of_weights = 0;
    for_each_tap<k3x3, false>(g, [&](const Tap& tap) {
      const BilinearCell<Real<T>> cell = place.cell(g, tap);
      const Real<T> weight = weight_of(g, place.mask, tap, peak);
      sum_of_weights += weight;
      add_sample(cell, weight, image, g.w, g.channels, sum);
    });
    const Real<T> scale = g.softmax ? reciprocal_of(sum_of_weights) : 1;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] *= scale;
    store(sum, output + (g.position(place.pixel) + channel));
  }
}

// A team of threads, each with channels of its own, computes every gradient that one output pixel and group gives.
// grad_input is null where dcnv3_backward_input_in_order computes it.
template <typename T, int kLanes, bool k3x3>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2)
dcnv3_backward(const Layout<Real<T>> g, const T* __restrict__ grad_output, const T* __restrict__ input,
               const T* __restrict__ offset, const T* __restrict__ mask, Real<T>* __restrict__ grad_input,
               T* __restrict__ grad_offset, T* __restrict__ grad_mask) {
  const int team = int(g.team.value);
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    // All lanes take part in the sums: those with no item left repeat the last one, without channels.
    const int item = block + int(threadIdx.x);
    int member;
    const Place<T> place = place_of(g, item < g.work ? item : g.work - 1, offset, mask, member);
    const TapWeights<T, k3x3> weights(g, place.mask);
    const int group_channel = place.group * g.group_channels;
    const int64_t image = g.position(place.image * (int64_t(g.h) * g.w)) + group_channel;
    const T* const map = input + image;
    Real<T>* const grad_map = grad_input ? grad_input + image : nullptr;
    Channels<T, kLanes> channels(grad_output + (g.position(place.pixel) + group_channel), g.group_channels, team, member,
                                 item < g.work);
    const bool writes = item < g.work && member == 0;
    T* const offsets_out = grad_offset + (place.offset - offset);
    T* const masks_out = grad_mask + (place.mask - mask);

    Real<T> mean = 0;  // of the weights' gradients under the softmax, which keeps its sum at 1
    Real<T> along_weights[9] = {};  // by slot
    if (!k3x3 && g.softmax) {
      for_each_tap<k3x3, false>(g, [&](const Tap& tap) {
        const Real<T> weight = weights(g, tap);
        const BilinearCell<Real<T>> cell = place.cell(g, tap);
        mean += weight * channels.template gradient<false>(cell, weight, map, nullptr, g.w, g.channels).weight;
      });
      sum_over_team(team, mean);
    }
    for_each_tap<k3x3, false>(g, [&](const Tap& tap) {
      const Real<T> weight = weights(g, tap);
      const BilinearCell<Real<T>> cell = place.cell(g, tap);
      SampleGradient<Real<T>> gradient =
          channels.template gradient<true>(cell, weight, map, grad_map, g.w, g.channels);
      sum_over_team(team, gradient.weight, gradient.y, gradient.x);
      const Real<T> along = cell.in_window ? g.offset_scale * weight : 0;
      const Real<T> delta[2] = {along * gradient.x, along * gradient.y};
      if (writes) {
        T* const to = offsets_out + 2 * tap.k;
        if (g.offset_pairs) {
          store(delta, to);
        } else {
          from_real(delta[0], to[0]);
          from_real(delta[1], to[1]);
        }
      }
      if constexpr (k3x3) {
        if (tap.row == 0) {  // a register has no number at run time: a column comes in at the end, the others move up
#pragma unroll
          for (int slot = 0; slot < 6; ++slot) along_weights[slot] = along_weights[slot + 3];
        }
        along_weights[6 + tap.row] = gradient.weight;
        mean += weight * gradient.weight;
      } else if (writes) {
        from_real(g.softmax ? weight * (gradient.weight - mean) : gradient.weight, masks_out[tap.k]);
      }
    });
    if constexpr (k3x3) {
      for_each_tap<k3x3, true>(g, [&](const Tap& tap) {
        const Real<T> gradient = along_weights[tap.slot];
        if (writes) from_real(g.softmax ? weights(g, tap) * (gradient - mean) : gradient, masks_out[tap.k]);
      });
    }
  }
}

// The input's gradient with no atomic additions: a warp owns a band of rows of one group and image. Its lanes look at
// all points of the image's output in order, 32 at a time; the whole warp then adds what those that touch the band
// give, one after the other, each lane to channels of its own. So every run adds in the same order.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
dcnv3_backward_input_in_order(const Layout<Real<T>> g, const T* __restrict__ grad_output,
                              const T* __restrict__ offset, const T* __restrict__ mask,
                              Real<T>* __restrict__ grad_input) {
  const int lane = int(threadIdx.x) % kWarp;
  const int points = int(g.out_w.value) * int(g.taps.value);  // of one group in a row of the output
  for (int block = int(blockIdx.x) * kWarps; block < g.work; block += int(gridDim.x) * kWarps) {
    const int item = block + int(threadIdx.x) / kWarp;
    const bool owns = item < g.work;  // a warp with no item left looks along, but has no rows
    const Divisor::Parts in_bands = g.bands(owns ? item : 0), in_groups = g.groups(in_bands.quotient);
    const int group = in_groups.remainder;
    const int first_row = owns ? in_bands.remainder * g.band_rows : g.h + 1;
    const int end_row = first_row + g.band_rows < g.h ? first_row + g.band_rows : g.h;
    const int group_channel = group * g.group_channels;
    Real<T>* const image =
        grad_input + (g.position((g.first_image + in_groups.quotient) * (int64_t(g.h) * g.w)) + group_channel);
    for (int out_row = 0; out_row < g.out_h; ++out_row) {
      const int row = in_groups.quotient * g.out_h + out_row;
      for (int start = 0; start < points; start += kWarp) {
        const int point = start + lane;
        const Divisor::Parts in_taps = g.taps(point < points ? point : points - 1);
        const Place<T> place(g, row, in_taps.quotient, group, offset, mask);
        const Tap tap = tap_of(g, in_taps.remainder);
        const BilinearCell<Real<T>> cell = place.cell(g, tap);
        const int y0 = int(cell.y0);
        const bool touches = point < points && cell.in_window && y0 + 1 >= first_row && y0 < end_row;
        OrderedSample<T> sample;
        sample.touches = touches;
        sample.grad_output = g.position(g.pixel_of(row, in_taps.quotient)) + group_channel;
        sample.weight = touches ? TapWeights<T, false>(g, place.mask)(g, tap) : 0;
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          sample.corners[step] = corner_of(cell, g.w, step);
          sample.corners[step].present &= y0 + step / 2 >= first_row && y0 + step / 2 < end_row;
        }
        sample.add(grad_output, image, g.channels, g.group_channels);
      }
    }
  }
}

}  // namespace internimage
