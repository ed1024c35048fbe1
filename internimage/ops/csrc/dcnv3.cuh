// DCNv3 on CUDA: the kernels. Includes nothing of torch. InternImage (CVPR 2023), Eq. 2.
//
// Tensors are channels last. Taps run column by column (x is the outer loop), as in the released weights.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "bilinear.h"
#include "geometry.h"

namespace internimage {

constexpr int kThreads = 256;  // a block

// The type in which T is computed, and the conversions by name: torch compiles with the operators of the halves off.
template <typename T> struct RealOf { using type = float; };
template <> struct RealOf<double> { using type = double; };
template <typename T> using Real = typename RealOf<T>::type;

__device__ __forceinline__ float to_real(float x) { return x; }
__device__ __forceinline__ double to_real(double x) { return x; }
__device__ __forceinline__ float to_real(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_real(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void from_real(float x, float& out) { out = x; }
__device__ __forceinline__ void from_real(double x, double& out) { out = x; }
__device__ __forceinline__ void from_real(float x, __half& out) { out = __float2half_rn(x); }
__device__ __forceinline__ void from_real(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float max_of(float x, float y) { return fmaxf(x, y); }
__device__ __forceinline__ double max_of(double x, double y) { return fmax(x, y); }

// kLanes neighbouring elements move as one word of 2 to 16 bytes, to which they must be aligned.
template <int kBytes> struct WordOf;
template <> struct WordOf<2> { using type = unsigned short; };
template <> struct WordOf<4> { using type = unsigned int; };
template <> struct WordOf<8> { using type = uint2; };
template <> struct WordOf<16> { using type = uint4; };

template <typename T, int kLanes>
__device__ __forceinline__ void load(const T* from, Real<T> (&to)[kLanes]) {
  using Word = typename WordOf<kLanes * sizeof(T)>::type;
  const Word word = __ldg(reinterpret_cast<const Word*>(from));
  T lanes[kLanes];
  memcpy(static_cast<void*>(lanes), &word, sizeof(word));
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = to_real(lanes[lane]);
}

template <typename T, int kLanes>
__device__ __forceinline__ void store(const Real<T> (&from)[kLanes], T* to) {
  using Word = typename WordOf<kLanes * sizeof(T)>::type;
  T lanes[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) from_real(from[lane], lanes[lane]);
  Word word;
  memcpy(&word, static_cast<const void*>(lanes), sizeof(word));
  *reinterpret_cast<Word*>(to) = word;
}

// A Geometry as the kernels read it. Index is int32_t wherever one image and the number of work items allow it.
template <typename Real, typename Index>
struct Layout {
  Index work;  // how many threads have something to do
  Index h, w, out_h, out_w, groups, group_channels, taps;
  Index kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t offset_stride, mask_stride;
  Real offset_scale;
  bool remove_center, softmax;

  Layout(const Geometry& g, int64_t work)
      : work(Index(work)), h(Index(g.h)), w(Index(g.w)), out_h(Index(g.out_h)), out_w(Index(g.out_w)),
        groups(Index(g.groups)), group_channels(Index(g.group_channels)), taps(Index(g.taps())),
        kernel_h(Index(g.kernel_h)), kernel_w(Index(g.kernel_w)), stride_h(Index(g.stride_h)),
        stride_w(Index(g.stride_w)), pad_h(Index(g.pad_h)), pad_w(Index(g.pad_w)), dilation_h(Index(g.dilation_h)),
        dilation_w(Index(g.dilation_w)), offset_stride(g.offset_stride), mask_stride(g.mask_stride),
        offset_scale(Real(g.offset_scale)), remove_center(g.remove_center), softmax(g.softmax) {}

  __device__ __forceinline__ Index channels() const { return groups * group_channels; }
  __device__ __forceinline__ int64_t image_size() const { return int64_t(h) * w * channels(); }
};

// Calls body(i, j, k) for tap k at column i and row j of the kernel. kKernel is its size, or 0 where it is not known:
// with it, the loads of a whole column of taps are under way at once.
template <int kKernel, typename Real, typename Index, typename Body>
__device__ __forceinline__ void for_each_tap(const Layout<Real, Index>& g, Body body) {
  const Index kernel_w = kKernel ? kKernel : g.kernel_w;
  const Index kernel_h = kKernel ? kKernel : g.kernel_h;
  Index k = 0;
#pragma unroll 1
  for (Index i = 0; i < kernel_w; ++i) {
#pragma unroll (kKernel ? kKernel : 1)
    for (Index j = 0; j < kernel_h; ++j) {
      if (g.remove_center && i == kernel_w / 2 && j == kernel_h / 2) continue;
      body(i, j, k);
      ++k;
    }
  }
}

// One output pixel and group: where its offsets and mask lie, and the anchor of its grid of taps.
template <typename T, typename Index>
struct Place {
  int64_t image;  // which of the batch
  int64_t pixel;  // of the whole output
  Index group;
  const T* offset;
  const T* mask;
  Real<T> y, x;
  Index anchor_y, anchor_x;  // the tap that is not displaced; floor: an even kernel's grid is one-sided

  __device__ __forceinline__ Place(const Layout<Real<T>, Index>& g, Index pixel_index, Index group_index,
                                   const T* offsets, const T* masks)
      : pixel(pixel_index), group(group_index) {
    const Index row = pixel_index / g.out_w;
    image = row / g.out_h;
    offset = offsets + pixel * g.offset_stride + group * g.taps * 2;
    mask = masks + pixel * g.mask_stride + group * g.taps;
    anchor_y = g.dilation_h * (g.kernel_h - 1) / 2;
    anchor_x = g.dilation_w * (g.kernel_w - 1) / 2;
    y = Real<T>(row % g.out_h * g.stride_h + anchor_y - g.pad_h);
    x = Real<T>(pixel_index % g.out_w * g.stride_w + anchor_x - g.pad_w);
  }

  __device__ __forceinline__ BilinearCell<Real<T>> cell(const Layout<Real<T>, Index>& g, Index i, Index j,
                                                        Index k) const {
    const Real<T> dx = to_real(__ldg(offset + 2 * k));
    const Real<T> dy = to_real(__ldg(offset + 2 * k + 1));
    return locate(y + g.offset_scale * (Real<T>(j * g.dilation_h - anchor_y) + dy),
                  x + g.offset_scale * (Real<T>(i * g.dilation_w - anchor_x) + dx), Real<T>(g.h), Real<T>(g.w));
  }
};

// The weights of a group's taps: the mask as it is, or its softmax.
template <typename T, int kKernel, typename Index>
struct TapWeights {
  const T* mask;
  bool softmax;
  Real<T> peak, scale;

  __device__ __forceinline__ TapWeights(const Layout<Real<T>, Index>& g, const T* mask, bool softmax)
      : mask(mask), softmax(softmax) {
    if (!softmax || g.taps == 0) return;
    peak = to_real(__ldg(mask));
    for_each_tap<kKernel>(g, [&](Index, Index, Index k) { peak = max_of(peak, to_real(__ldg(mask + k))); });
    Real<T> sum = 0;
    for_each_tap<kKernel>(g, [&](Index, Index, Index k) { sum += exp_of(to_real(__ldg(mask + k)) - peak); });
    scale = 1 / sum;
  }

  __device__ __forceinline__ Real<T> operator[](Index k) const {
    const Real<T> value = to_real(__ldg(mask + k));
    return softmax ? exp_of(value - peak) * scale : value;
  }
};

// One of the four neighbours of a sampling point.
template <typename Real, typename Index>
struct Corner {
  bool present;    // in the image, and its point in the window: the only memory that may be touched
  Index position;  // of the pixel's first channel in its image
  Real weight_y, weight_x;
};

template <typename Real, typename Index>
__device__ __forceinline__ Corner<Real, Index> corner_of(const Layout<Real, Index>& g, const BilinearCell<Real>& cell,
                                                         int step_y, int step_x) {
  Corner<Real, Index> corner;
  corner.present = (step_y ? cell.row1 : cell.row0) && (step_x ? cell.column1 : cell.column0);
  corner.position = ((Index(cell.y0) + step_y) * g.w + Index(cell.x0) + step_x) * g.channels();
  corner.weight_y = step_y ? cell.ly : 1 - cell.ly;
  corner.weight_x = step_x ? cell.lx : 1 - cell.lx;
  return corner;
}

// A thread computes kLanes channels of one output pixel. kSoftmax is heeded where kKernel is known.
template <typename T, int kLanes, int kKernel, bool kSoftmax, typename Index>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
dcnv3_forward(const Layout<Real<T>, Index> g, const T* __restrict__ input, const T* __restrict__ offset,
              const T* __restrict__ mask, T* __restrict__ output) {
  const Index vectors = g.group_channels / kLanes;
  for (Index item = Index(blockIdx.x) * kThreads + threadIdx.x; item < g.work; item += Index(gridDim.x) * kThreads) {
    const Index group_item = item / vectors;
    const Place<T, Index> place(g, group_item / g.groups, group_item % g.groups, offset, mask);
    const TapWeights<T, kKernel, Index> weights(g, place.mask, kKernel ? kSoftmax : g.softmax);
    const Index channel = place.group * g.group_channels + item % vectors * kLanes;
    const T* const image = input + place.image * g.image_size() + channel;
    Real<T> sum[kLanes] = {};
    for_each_tap<kKernel>(g, [&](Index i, Index j, Index k) {
      const BilinearCell<Real<T>> cell = place.cell(g, i, j, k);
      const Real<T> weight = weights[k];
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Corner<Real<T>, Index> corner = corner_of(g, cell, step / 2, step % 2);
        Real<T> pixel[kLanes] = {};  // stays 0 where absent: a NaN in the mask shows all the same
        if (corner.present) load(image + corner.position, pixel);
        const Real<T> share = weight * corner.weight_y * corner.weight_x;
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) sum[lane] += share * pixel[lane];
      }
    });
    store(sum, output + place.pixel * g.channels() + channel);
  }
}

// Derivatives of one tap: of its weight, and of its place before the factors offset_scale and weight.
template <typename Real>
struct TapGradient {
  Real weight, y, x;
};

// The channels of grad_output and image begin at the group's first. With grad_image, scatters the input's gradient.
template <typename T, int kLanes, typename Index>
__device__ __forceinline__ TapGradient<Real<T>> tap_gradient(const Layout<Real<T>, Index>& g,
                                                             const BilinearCell<Real<T>>& cell, Real<T> weight,
                                                             const T* grad_output, const T* image,
                                                             Real<T>* grad_image) {
  Corner<Real<T>, Index> corners[4];
#pragma unroll
  for (int step = 0; step < 4; ++step) corners[step] = corner_of(g, cell, step / 2, step % 2);
  Real<T> dot[4] = {};  // grad_output . pixel
  for (Index channel = 0; channel < g.group_channels; channel += kLanes) {
    Real<T> grad[kLanes];
    load(grad_output + channel, grad);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (!corners[step].present) continue;
      Real<T> pixel[kLanes];
      load(image + corners[step].position + channel, pixel);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) dot[step] += grad[lane] * pixel[lane];
      if (!grad_image) continue;
      const Real<T> share = weight * corners[step].weight_y * corners[step].weight_x;
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane)
        atomicAdd(grad_image + corners[step].position + channel + lane, share * grad[lane]);
    }
  }
  TapGradient<Real<T>> gradient = {};
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const Corner<Real<T>, Index>& corner = corners[step];
    gradient.weight += dot[step] * corner.weight_y * corner.weight_x;
    gradient.y += (step / 2 ? dot[step] : -dot[step]) * corner.weight_x;
    gradient.x += (step % 2 ? dot[step] : -dot[step]) * corner.weight_y;
  }
  return gradient;
}

// A thread computes every gradient that one output pixel and group gives. grad_input is null where
// dcnv3_backward_input_in_order computes it.
template <typename T, int kLanes, typename Index>
__global__ void __launch_bounds__(kThreads, 2)
dcnv3_backward(const Layout<Real<T>, Index> g, const T* __restrict__ grad_output, const T* __restrict__ input,
               const T* __restrict__ offset, const T* __restrict__ mask, Real<T>* __restrict__ grad_input,
               T* __restrict__ grad_offset, T* __restrict__ grad_mask) {
  for (Index item = Index(blockIdx.x) * kThreads + threadIdx.x; item < g.work; item += Index(gridDim.x) * kThreads) {
    const Place<T, Index> place(g, item / g.groups, item % g.groups, offset, mask);
    const TapWeights<T, 0, Index> weights(g, place.mask, g.softmax);
    const Index channel = place.group * g.group_channels;
    const T* const grad = grad_output + place.pixel * g.channels() + channel;
    const int64_t image = place.image * g.image_size() + channel;
    Real<T> mean = 0;  // of the weights' gradients under the softmax, which keeps its sum at 1
    if (g.softmax) {
      for_each_tap<0>(g, [&](Index i, Index j, Index k) {
        const Real<T> weight = weights[k];
        const BilinearCell<Real<T>> cell = place.cell(g, i, j, k);
        Real<T>* const no_scatter = nullptr;
        mean += weight * tap_gradient<T, kLanes>(g, cell, weight, grad, input + image, no_scatter).weight;
      });
    }
    T* const offsets_out = grad_offset + (place.offset - offset);
    T* const masks_out = grad_mask + (place.mask - mask);
    for_each_tap<0>(g, [&](Index i, Index j, Index k) {
      const Real<T> weight = weights[k];
      const BilinearCell<Real<T>> cell = place.cell(g, i, j, k);
      Real<T>* const scatter = grad_input ? grad_input + image : nullptr;
      const TapGradient<Real<T>> gradient = tap_gradient<T, kLanes>(g, cell, weight, grad, input + image, scatter);
      const Real<T> along = cell.in_window ? g.offset_scale * weight : 0;
      from_real(along * gradient.x, offsets_out[2 * k]);
      from_real(along * gradient.y, offsets_out[2 * k + 1]);
      from_real(g.softmax ? weight * (gradient.weight - mean) : gradient.weight, masks_out[k]);
    });
  }
}

// The input's gradient with no atomic additions: a thread owns one channel of one image and walks over the output in
// order, so that every run adds in the same order.
template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads, 2)
dcnv3_backward_input_in_order(const Layout<Real<T>, Index> g, const T* __restrict__ grad_output,
                              const T* __restrict__ offset, const T* __restrict__ mask,
                              Real<T>* __restrict__ grad_input) {
  const Index pixels = g.out_h * g.out_w;
  for (Index item = Index(blockIdx.x) * kThreads + threadIdx.x; item < g.work; item += Index(gridDim.x) * kThreads) {
    const Index channel = item % g.channels();
    const Index first = item / g.channels() * pixels;
    for (Index pixel = first; pixel < first + pixels; ++pixel) {
      const Place<T, Index> place(g, pixel, channel / g.group_channels, offset, mask);
      const TapWeights<T, 0, Index> weights(g, place.mask, g.softmax);
      const Real<T> grad = to_real(__ldg(grad_output + place.pixel * g.channels() + channel));
      Real<T>* const image = grad_input + place.image * g.image_size() + channel;
      for_each_tap<0>(g, [&](Index i, Index j, Index k) {
        const BilinearCell<Real<T>> cell = place.cell(g, i, j, k);
        const Real<T> weight = weights[k];
        for (int step = 0; step < 4; ++step) {
          const Corner<Real<T>, Index> corner = corner_of(g, cell, step / 2, step % 2);
          if (corner.present) image[corner.position] += weight * corner.weight_y * corner.weight_x * grad;
        }
      });
    }
  }
}

}  // namespace internimage
