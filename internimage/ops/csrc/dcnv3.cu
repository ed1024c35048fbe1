// Launches the kernels of dcnv3.cuh. Includes nothing of torch, so that nvcc takes seconds.
#include "dcnv3_launchers.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <initializer_list>
#include <tuple>
#include <type_traits>
#include <utility>

#include "dcnv3.cuh"

namespace internimage {
namespace {

constexpr int64_t kMostBlocks = 65535;  // each thread then takes several items

// A kernel's arguments by value, as the runtime wants them: an array of their addresses.
template <typename... Parameters, std::size_t... kIndex>
cudaError_t launch_with(void (*kernel)(Parameters...), dim3 blocks, std::tuple<std::decay_t<Parameters>...> arguments,
                        std::index_sequence<kIndex...>, cudaStream_t stream) {
  void* addresses[] = {&std::get<kIndex>(arguments)...};
  return cudaLaunchKernel(kernel, blocks, dim3(kThreads), addresses, 0, stream);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t work, cudaStream_t stream, Arguments... arguments) {
  const int64_t blocks = std::min((work + kThreads - 1) / kThreads, kMostBlocks);
  return launch_with(kernel, dim3(unsigned(blocks)), {arguments...}, std::index_sequence_for<Parameters...>{}, stream);
}

// Calls body with the greatest number of lanes, at most 16 bytes, that divides a group and suits the alignment.
template <typename T, int kLanes = 16 / sizeof(T), typename Body>
cudaError_t with_lanes(int64_t group_channels, std::initializer_list<const void*> tensors, Body body) {
  if constexpr (kLanes > 1) {
    bool fits = group_channels % kLanes == 0;
    for (const void* tensor : tensors) fits = fits && reinterpret_cast<uintptr_t>(tensor) % (kLanes * sizeof(T)) == 0;
    if (!fits) return with_lanes<T, kLanes / 2>(group_channels, tensors, body);
  }
  return body(std::integral_constant<int, kLanes>{});
}

// Whether 32 bits number every work item and every place within one image, output or grid of taps.
bool fits_32_bits(const Geometry& g) {
  const int64_t image = (g.h + 2) * (g.w + 2) * g.channels();
  const int64_t output = g.output_pixels() * std::max(g.channels(), g.groups);
  const int64_t reach_h = (g.out_h + 1) * g.stride_h + g.pad_h + g.dilation_h * g.kernel_h;
  const int64_t reach_w = (g.out_w + 1) * g.stride_w + g.pad_w + g.dilation_w * g.kernel_w;
  const int64_t most = std::max({image, output, reach_h, reach_w, 2 * g.groups * g.kernel_h * g.kernel_w});
  return most <= INT32_MAX - kMostBlocks * kThreads;  // room for the last step of a kernel's loop
}

// Calls body with the number of lanes and the index type. Where 32 bits are too few, single channels will do: such
// images are rare, and each combination costs every user's build a moment.
template <typename T, typename Body>
cudaError_t with_lanes_and_index(const Geometry& g, std::initializer_list<const void*> tensors, Body body) {
  if (!fits_32_bits(g)) return body(std::integral_constant<int, 1>{}, int64_t{});
  return with_lanes<T>(g.group_channels, tensors, [&](auto lanes) { return body(lanes, int32_t{}); });
}

template <typename T>
cudaError_t forward(const Geometry& g, const void* input, const void* offset, const void* mask, void* output,
                    cudaStream_t stream) {
  if (g.output_pixels() * g.channels() == 0) return cudaSuccess;
  return with_lanes_and_index<T>(g, {input, output}, [&](auto lanes, auto index) {
    using Index = decltype(index);
    constexpr int kLanes = decltype(lanes)::value;
    auto kernel = dcnv3_forward<T, kLanes, 0, false, Index>;
    if constexpr (kLanes * sizeof(T) == 16)
      if (g.kernel_h == 3 && g.kernel_w == 3)
        kernel = g.softmax ? dcnv3_forward<T, kLanes, 3, true, Index> : dcnv3_forward<T, kLanes, 3, false, Index>;
    const int64_t work = g.output_pixels() * (g.channels() / kLanes);
    return launch(kernel, work, stream, Layout<Real<T>, Index>(g, work), static_cast<const T*>(input),
                  static_cast<const T*>(offset), static_cast<const T*>(mask), static_cast<T*>(output));
  });
}

template <typename T>
cudaError_t backward(const Geometry& g, const void* grad_output, const void* input, const void* offset,
                     const void* mask, void* grad_input, void* grad_offset, void* grad_mask, bool deterministic,
                     cudaStream_t stream) {
  const int64_t work = g.output_pixels() * g.groups;
  if (work * g.taps() == 0) return cudaSuccess;
  const cudaError_t error = with_lanes_and_index<T>(g, {grad_output, input}, [&](auto lanes, auto index) {
    using Index = decltype(index);
    auto kernel = dcnv3_backward<T, decltype(lanes)::value, Index>;
    return launch(kernel, work, stream, Layout<Real<T>, Index>(g, work), static_cast<const T*>(grad_output),
                  static_cast<const T*>(input), static_cast<const T*>(offset), static_cast<const T*>(mask),
                  static_cast<Real<T>*>(deterministic ? nullptr : grad_input), static_cast<T*>(grad_offset),
                  static_cast<T*>(grad_mask));
  });
  const int64_t columns = g.n * g.channels();
  if (error != cudaSuccess || !deterministic || columns == 0) return error;
  auto kernel = dcnv3_backward_input_in_order<T, int64_t>;
  return launch(kernel, columns, stream, Layout<Real<T>, int64_t>(g, columns), static_cast<const T*>(grad_output),
                static_cast<const T*>(offset), static_cast<const T*>(mask), static_cast<Real<T>*>(grad_input));
}

// Calls body with a value of the type that the number stands for in the launchers' interface.
template <typename Body>
cudaError_t with_dtype(int dtype, Body body) {
  switch (dtype) {
    case 0: return body(float{});
    case 1: return body(__half{});
    case 2: return body(__nv_bfloat16{});
    case 3: return body(double{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace
}  // namespace internimage

extern "C" int internimage_dcnv3_forward_cuda(
    int dtype, const void* input, const void* offset, const void* mask, void* output,
    int64_t n, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t groups, int64_t group_channels,
    int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, int64_t offset_stride, int64_t mask_stride,
    double offset_scale, int remove_center, int softmax, void* stream) {
  const internimage::Geometry g{n, h, w, out_h, out_w, groups, group_channels, kernel_h, kernel_w, stride_h, stride_w,
                                pad_h, pad_w, dilation_h, dilation_w, offset_stride, mask_stride, offset_scale,
                                remove_center != 0, softmax != 0};
  return internimage::with_dtype(dtype, [&](auto example) {
    using T = decltype(example);
    return internimage::forward<T>(g, input, offset, mask, output, static_cast<cudaStream_t>(stream));
  });
}

extern "C" int internimage_dcnv3_backward_cuda(
    int dtype, const void* grad_output, const void* input, const void* offset, const void* mask,
    void* grad_input, void* grad_offset, void* grad_mask,
    int64_t n, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t groups, int64_t group_channels,
    int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, int64_t offset_stride, int64_t mask_stride,
    double offset_scale, int remove_center, int softmax, int deterministic, void* stream) {
  const internimage::Geometry g{n, h, w, out_h, out_w, groups, group_channels, kernel_h, kernel_w, stride_h, stride_w,
                                pad_h, pad_w, dilation_h, dilation_w, offset_stride, mask_stride, offset_scale,
                                remove_center != 0, softmax != 0};
  return internimage::with_dtype(dtype, [&](auto example) {
    using T = decltype(example);
    return internimage::backward<T>(g, grad_output, input, offset, mask, grad_input, grad_offset, grad_mask,
                                    deterministic != 0, static_cast<cudaStream_t>(stream));
  });
}
