// RoIAlign on CUDA: the kernels. Includes nothing of torch. Tensors are [N, C, H, W]; halves are read and written as
// such, RoIs and all arithmetic are float32.
#pragma once

#include <cstdint>

#include "cuda_lanes.cuh"
#include "roi_align.h"

namespace internimage {

// A RoIAlign and what part of it one launch covers, as the kernels read it.
struct RoIAlignLayout {
  int work;       // items; a thread takes one after the other
  int64_t first;  // number of the first item among all
  int64_t n;
  int rois, channels, height, width, rows, columns, sampling_ratio;
  Divisor bins, in_row, in_channels, pixels, map_columns;
  double scale;
  bool aligned;

  RoIAlignLayout(const RoIAlign& a, int64_t work, int64_t first)
      : work(int(work)), first(first), n(a.n), rois(int(a.rois)), channels(int(a.channels)), height(int(a.height)),
        width(int(a.width)), rows(int(a.rows)), columns(int(a.columns)), sampling_ratio(int(a.sampling_ratio)),
        bins(a.bins()), in_row(a.columns), in_channels(a.channels), pixels(a.pixels()), map_columns(a.width),
        scale(a.scale), aligned(a.aligned) {}

  template <typename Real>
  __device__ __forceinline__ SampleAxis<Real> y(const Real* roi) const {
    return {__ldg(roi + 2), __ldg(roi + 4), Real(scale), aligned, sampling_ratio, rows, height};
  }
  template <typename Real>
  __device__ __forceinline__ SampleAxis<Real> x(const Real* roi) const {
    return {__ldg(roi + 1), __ldg(roi + 3), Real(scale), aligned, sampling_ratio, columns, width};
  }
};

// One bin of one channel of a RoI, by its number in a part that begins with a RoI.
struct RoIBin {
  int64_t roi;
  int channel, row, column;

  __device__ __forceinline__ RoIBin(const RoIAlignLayout& g, int item, int64_t first_roi) {
    const Divisor::Parts in_plane = g.bins(item), plane = g.in_channels(in_plane.quotient);
    const Divisor::Parts bin = g.in_row(in_plane.remainder);
    roi = first_roi + plane.quotient, channel = plane.remainder, row = bin.quotient, column = bin.remainder;
  }
};

// Calls f(pixel of the plane, what it counts) for the four neighbours of each sample of a bin.
template <typename Real, typename F>
__device__ __forceinline__ void for_samples(const SampleAxis<Real>& y, const SampleAxis<Real>& x, int row, int column,
                                            int height, int width, const F& f) {
  const auto down = y.within(row), across = x.within(column);
  const Real share = Real(1) / (y.count * x.count);
  for (int64_t i = down.first; i < down.last; ++i) {
    const SamplePixels<Real> rows(y.place(row, i), y.size);
    if (!rows.in_map) continue;
    const int top = int(rows.first) * width, bottom = rows.first + 1 < height ? top + width : top;
    for (int64_t j = across.first; j < across.last; ++j) {
      const SamplePixels<Real> columns(x.place(column, j), x.size);
      if (!columns.in_map) continue;
      const int left = int(columns.first), right = columns.first + 1 < width ? left + 1 : left;
      f(top + left, rows.here * columns.here * share);
      f(top + right, rows.here * columns.next * share);
      f(bottom + left, rows.next * columns.here * share);
      f(bottom + right, rows.next * columns.next * share);
    }
  }
}

// A thread computes one bin of one channel.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
roi_align_forward(const RoIAlignLayout g, int64_t first_roi, const T* __restrict__ input,
                  const Real<T>* __restrict__ rois, T* __restrict__ output) {
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    const int item = block + int(threadIdx.x);
    if (item >= g.work) continue;
    const RoIBin bin(g, item, first_roi);
    const Real<T>* const roi = rois + 5 * bin.roi;
    const int64_t image = image_of_roi(__ldg(roi), g.n);
    Real<T> sum[1] = {};
    if (image >= 0) {
      const T* const plane = input + (image * g.channels + bin.channel) * int64_t(g.pixels.value);
      for_samples(g.y(roi), g.x(roi), bin.row, bin.column, g.height, g.width, [&](int pixel, Real<T> weight) {
        sum[0] += weight * to_real(__ldg(plane + pixel));
      });
    }
    store(sum, output + (g.first + item));
  }
}

// A thread adds what one bin of one channel gives to the gradient of the input.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
roi_align_backward(const RoIAlignLayout g, int64_t first_roi, const T* __restrict__ grad_output,
                   const Real<T>* __restrict__ rois, Real<T>* __restrict__ grad_input) {
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    const int item = block + int(threadIdx.x);
    if (item >= g.work) continue;
    const RoIBin bin(g, item, first_roi);
    const Real<T>* const roi = rois + 5 * bin.roi;
    const int64_t image = image_of_roi(__ldg(roi), g.n);
    if (image < 0) continue;
    const Real<T> grad = to_real(__ldg(grad_output + (g.first + item)));
    Real<T>* const plane = grad_input + (image * g.channels + bin.channel) * int64_t(g.pixels.value);
    for_samples(g.y(roi), g.x(roi), bin.row, bin.column, g.height, g.width, [&](int pixel, Real<T> weight) {
      atomicAdd(plane + pixel, weight * grad);
    });
  }
}

// What a bin takes from one pixel along an axis.
template <typename Real>
__device__ __forceinline__ Real weight_of(const SampleAxis<Real>& axis, int number, int pixel, int size) {
  Real weight = 0;
  const auto range = axis.within(number);
  for (int64_t sample = range.first; sample < range.last; ++sample) {
    const SamplePixels<Real> pixels(axis.place(number, sample), axis.size);
    if (!pixels.in_map) continue;
    const int first = int(pixels.first), next = first + 1 < size ? first + 1 : first;
    if (first == pixel) weight += pixels.here;
    if (next == pixel) weight += pixels.next;
  }
  return weight == Real(0) ? weight : weight / axis.count;  // the count may be 0
}

// Whether a RoI's bins can touch a pixel, along an axis.
template <typename Real>
__device__ __forceinline__ bool may_touch(const SampleAxis<Real>& axis, int bins, int pixel) {
  const Real end = axis.begin + axis.bin * Real(bins), at = Real(pixel);
  const Real low = axis.begin < end ? axis.begin : end, high = axis.begin < end ? end : axis.begin;
  // Samples just outside the map take its first or last pixel.
  return at >= low - Real(2) && at <= high + Real(2);
}

// The gradient of the input with no atomic additions: a thread owns an element of it and looks at all RoIs in order.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
roi_align_backward_in_order(const RoIAlignLayout g, int64_t first_plane, const T* __restrict__ grad_output,
                            const Real<T>* __restrict__ rois, Real<T>* __restrict__ grad_input) {
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    const int item = block + int(threadIdx.x);
    if (item >= g.work) continue;
    const Divisor::Parts in_plane = g.pixels(item), pixel = g.map_columns(in_plane.remainder);
    const int64_t plane = first_plane + in_plane.quotient, own_image = plane / g.channels;
    const int64_t channel = plane % g.channels;
    Real<T> sum = 0;
    for (int number = 0; number < g.rois; ++number) {
      const Real<T>* const roi = rois + 5 * int64_t(number);
      if (image_of_roi(__ldg(roi), g.n) != own_image) continue;
      const SampleAxis<Real<T>> y = g.y(roi), x = g.x(roi);
      if (!may_touch(y, g.rows, pixel.quotient) || !may_touch(x, g.columns, pixel.remainder)) continue;
      const T* const grad = grad_output + (number * int64_t(g.channels) + channel) * g.bins.value;
      for (int row = 0; row < g.rows; ++row) {
        const Real<T> weight_y = weight_of(y, row, pixel.quotient, g.height);
        if (weight_y == Real<T>(0)) continue;
        for (int column = 0; column < g.columns; ++column) {
          const Real<T> weight_x = weight_of(x, column, pixel.remainder, g.width);
          if (weight_x != Real<T>(0)) sum += weight_y * weight_x * to_real(__ldg(grad + row * g.columns + column));
        }
      }
    }
    grad_input[g.first + item] = sum;
  }
}

}  // namespace internimage
