// What kernels on CUDA do at a sampling point: read its four neighbours, add to their gradients, take its derivatives.
// Includes nothing of torch.
//
// A map is a plane of pixels, row by row; `pitch` elements lie between the same channel of neighbouring pixels.
#pragma once

#include <cstdint>

#include "bilinear.h"
#include "cuda_lanes.cuh"

namespace internimage {

// One of the four neighbours of a sampling point.
template <typename Real>
struct Corner {
  bool present;  // in the map, and its point in the window: the only memory that may be touched
  int pixel;     // of its map
  Real weight_y, weight_x;
};

template <typename Real>
__device__ __forceinline__ Corner<Real> corner_of(const BilinearCell<Real>& cell, int width, int step) {
  const int step_y = step / 2, step_x = step % 2;
  Corner<Real> corner;
  corner.present = (step_y ? cell.row1 : cell.row0) && (step_x ? cell.column1 : cell.column0);
  corner.pixel = (int(cell.y0) + step_y) * width + int(cell.x0) + step_x;
  corner.weight_y = step_y ? cell.ly : 1 - cell.ly;
  corner.weight_x = step_x ? cell.lx : 1 - cell.lx;
  return corner;
}

// Adds `weight` times the sample of kLanes channels, the first of which begins at `map`.
template <typename T, int kLanes>
__device__ __forceinline__ void add_sample(const BilinearCell<Real<T>>& cell, Real<T> weight, const T* map, int width,
                                           int pitch, Real<T> (&sum)[kLanes]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const Corner<Real<T>> corner = corner_of(cell, width, step);
    Real<T> pixel[kLanes] = {};  // stays 0 where absent: a NaN in the weight shows all the same
    if (corner.present) load(map + int64_t(corner.pixel) * pitch, pixel);
    const Real<T> share = weight * corner.weight_y * corner.weight_x;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += share * pixel[lane];
  }
}

// Derivatives of one sample: by its weight, and by its place before the factor weight.
template <typename Real>
struct SampleGradient {
  Real weight = 0, y = 0, x = 0;
};

// The channels of one output position and group that a thread of its team sees to: kLanes at first, then every
// stride-th.
template <typename T, int kLanes>
struct Channels {
  const T* grad_output;  // of the group's first channel
  int first, end, stride;
  Real<T> grad[kLanes];  // the first of grad_output

  // Channels of `member` of a team; none where it has no item.
  __device__ __forceinline__ Channels(const T* grad_output, int channels, int team, int member, bool has_item)
      : grad_output(grad_output), first(has_item ? member * kLanes : channels), end(channels), stride(team * kLanes),
        grad{} {
    if (first < end) load(grad_output + first, grad);
  }

  // What these channels give to the gradient of one sample of `map`; with kScatter, adds to that of the map unless
  // `grad_map` is null. Both begin with the group's first channel.
  template <bool kScatter>
  __device__ __forceinline__ SampleGradient<Real<T>> gradient(const BilinearCell<Real<T>>& cell, Real<T> weight,
                                                              const T* map, Real<T>* grad_map, int width, int pitch) {
    Real<T> dot[4] = {};  // grad_output . pixel
    for (int begin = 0; begin < end; begin += stride) {  // as often in all lanes: the compiler sees them meet again
      const int channel = begin + first;
      if (channel >= end) continue;
      if (stride < end) load(grad_output + channel, grad);
      Real<T> pixels[4][kLanes] = {};  // all four loads are under way at once
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Corner<Real<T>> corner = corner_of(cell, width, step);
        if (corner.present) load(map + (int64_t(corner.pixel) * pitch + channel), pixels[step]);
      }
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) dot[step] += grad[lane] * pixels[step][lane];
      }
      if constexpr (kScatter) {
        if (grad_map == nullptr) continue;
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          const Corner<Real<T>> corner = corner_of(cell, width, step);
          const Real<T> share = weight * corner.weight_y * corner.weight_x;
          Real<T> shares[kLanes];
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) shares[lane] = share * grad[lane];
          if (corner.present) add_atomically(shares, grad_map + (int64_t(corner.pixel) * pitch + channel));
        }
      }
    }
    SampleGradient<Real<T>> gradient;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const Corner<Real<T>> corner = corner_of(cell, width, step);
      gradient.weight += dot[step] * corner.weight_y * corner.weight_x;
      gradient.y += (step / 2 ? dot[step] : -dot[step]) * corner.weight_x;
      gradient.x += (step % 2 ? dot[step] : -dot[step]) * corner.weight_y;
    }
    return gradient;
  }
};

// One sample a lane, of those that add to one map: what the whole warp adds, one sample after the other, each lane to
// channels of its own. So every run adds in the same order. All lanes of the warp must call it.
template <typename T>
struct OrderedSample {
  bool touches;         // whether it adds at all
  int64_t grad_output;  // where the first channel of its gradient lies
  Real<T> weight;
  Corner<Real<T>> corners[4];

  __device__ __forceinline__ void add(const T* grad_outputs, Real<T>* grad_map, int pitch, int channels) const {
    const int lane = int(threadIdx.x) % kWarp;
    for (unsigned hits = __ballot_sync(kAllLanes, touches); hits; hits &= hits - 1) {
      const int from = __ffs(int(hits)) - 1;
      const T* const grad = grad_outputs + __shfl_sync(kAllLanes, grad_output, from);
      bool present[4];
      Real<T> share[4];
      Real<T>* pixel[4];
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Corner<Real<T>>& corner = corners[step];
        present[step] = __shfl_sync(kAllLanes, int(corner.present), from);
        share[step] = __shfl_sync(kAllLanes, weight * corner.weight_y * corner.weight_x, from);
        pixel[step] = grad_map + int64_t(__shfl_sync(kAllLanes, corner.pixel, from)) * pitch;
      }
      for (int channel = lane; channel < channels; channel += kWarp) {
        const Real<T> value = to_real(__ldg(grad + channel));
        Real<T> sum[4];
#pragma unroll
        for (int step = 0; step < 4; ++step)
          if (present[step]) sum[step] = pixel[step][channel] + share[step] * value;
#pragma unroll
        for (int step = 0; step < 4; ++step)
          if (present[step]) pixel[step][channel] = sum[step];
      }
    }
  }
};

}  // namespace internimage
