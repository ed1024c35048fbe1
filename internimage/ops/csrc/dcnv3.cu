// Launches the kernels of dcnv3.cuh. Includes nothing of torch, so that nvcc takes seconds.
#include "dcnv3_launchers.h"

#include <algorithm>
#include <initializer_list>

#include "cuda_launch.cuh"
#include "dcnv3.cuh"

namespace internimage {
namespace {

// Whether the offsets of a point, and their gradients, may move as one word.
bool in_pairs(const Geometry& g, std::initializer_list<Operand> offsets) {
  bool fits = g.offset_stride % 2 == 0;
  for (const Operand& operand : offsets) fits = fits && operand.aligned(2);
  return fits;
}

// Whether 32 bits number every place within one image, one row of the output and one grid of taps.
bool fits_32_bits(const Geometry& g) {
  const double channels = std::max<double>(double(g.groups) * double(g.group_channels), double(g.groups) * kWarp);
  const double taps = double(g.kernel_h) * double(g.kernel_w);
  const double most = std::max({
      double(g.h + 2) * double(g.w + 2),
      double(g.out_h) * double(g.out_w),
      double(g.out_w) * channels,
      double(std::max<int64_t>(g.out_w, 2 * g.groups)) * taps,
      double(g.out_h - 1) * double(g.stride_h) + double(g.pad_h),
      double(g.out_w - 1) * double(g.stride_w) + double(g.pad_w),
      double(g.kernel_h - 1) * double(g.dilation_h),
      double(g.kernel_w - 1) * double(g.dilation_w),
  });
  return most <= kMostPlaces;
}

template <typename T>
cudaError_t launch_dcnv3_forward(const Geometry& g, const void* input, const void* offset, const void* mask,
                                 void* output, cudaStream_t stream) {
  if (g.output_pixels() * g.channels() == 0) return cudaSuccess;
  const Operand inputs{input, g.n * g.h * g.w, sizeof(T)}, outputs{output, 1, sizeof(T)};
  const Operand offsets{offset, g.taps(), sizeof(T)}, masks{mask, g.taps(), sizeof(T)};
  if (inputs.missing() || outputs.missing() || offsets.missing() || masks.missing() || !fits_32_bits(g))
    return cudaErrorInvalidValue;
  return with_lanes<T>(g.group_channels, {inputs, outputs}, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    auto kernel = dcnv3_forward<T, kLanes, false>;
    if constexpr (kLanes * sizeof(T) == 16)
      if (g.kernel_h == 3 && g.kernel_w == 3) kernel = dcnv3_forward<T, kLanes, true>;
    const int64_t team = g.group_channels / kLanes, items_in_row = g.out_w * g.groups * team;
    return for_each_part(g.n, g.out_h, items_in_row, [&](const Part& part) {
      const int64_t work = part.images * part.rows * items_in_row;
      return launch(kernel, work, stream, Layout<Real<T>>(g, part, work, team, in_pairs(g, {offsets})),
                    static_cast<const T*>(input), static_cast<const T*>(offset), static_cast<const T*>(mask),
                    static_cast<T*>(output));
    });
  });
}

template <typename T>
cudaError_t launch_dcnv3_backward(const Geometry& g, const void* grad_output, const void* input, const void* offset,
                                  const void* mask, void* grad_input, void* grad_offset, void* grad_mask,
                                  bool deterministic, cudaStream_t stream) {
  if (g.output_pixels() * g.groups * g.taps() == 0) return cudaSuccess;
  const int64_t pixels = g.n * g.h * g.w * g.channels();
  const Operand grad_outputs{grad_output, g.channels(), sizeof(T)}, inputs{input, pixels, sizeof(T)};
  const Operand offsets{offset, 1, sizeof(T)}, masks{mask, 1, sizeof(T)};
  const Operand grad_inputs{grad_input, pixels, sizeof(Real<T>)};
  const Operand grad_offsets{grad_offset, 1, sizeof(T)}, grad_masks{grad_mask, 1, sizeof(T)};
  for (const Operand& operand : {grad_outputs, inputs, offsets, masks, grad_inputs, grad_offsets, grad_masks})
    if (operand.missing()) return cudaErrorInvalidValue;
  if (!fits_32_bits(g)) return cudaErrorInvalidValue;
  const cudaError_t error = with_lanes<T>(g.group_channels, {grad_outputs, inputs, grad_inputs}, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    auto kernel = dcnv3_backward<T, kLanes, false>;
    if constexpr (kLanes * sizeof(T) == 16)
      if (g.kernel_h == 3 && g.kernel_w == 3) kernel = dcnv3_backward<T, kLanes, true>;
    const int64_t team = team_of(g.group_channels, kLanes), items_in_row = g.out_w * g.groups * team;
    return for_each_part(g.n, g.out_h, items_in_row, [&](const Part& part) {
      const int64_t work = part.images * part.rows * items_in_row;
      return launch(kernel, work, stream, Layout<Real<T>>(g, part, work, team, in_pairs(g, {offsets, grad_offsets})),
                    static_cast<const T*>(grad_output), static_cast<const T*>(input), static_cast<const T*>(offset),
                    static_cast<const T*>(mask), static_cast<Real<T>*>(deterministic ? nullptr : grad_input),
                    static_cast<T*>(grad_offset), static_cast<T*>(grad_mask));
    });
  });
  if (error != cudaSuccess || !deterministic || pixels == 0) return error;
  const int64_t bands = std::clamp<int64_t>(kMostBands / (g.n * g.groups), 1, g.h);
  // An image's bands need the whole of its output, so the parts are whole images.
  const int64_t items_in_image = std::max(g.groups * bands * kWarp, g.out_h * g.out_w);
  return for_each_images(g.n, g.out_h, items_in_image, [&](const Part& part) {
    const int64_t work = part.images * g.groups * bands;
    return launch(dcnv3_backward_input_in_order<T>, work * kWarp, stream,
                  Layout<Real<T>>(g, part, work, 1, in_pairs(g, {offsets}), bands), static_cast<const T*>(grad_output),
                  static_cast<const T*>(offset), static_cast<const T*>(mask), static_cast<Real<T>*>(grad_input));
  });
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
    return internimage::launch_dcnv3_forward<T>(g, input, offset, mask, output, static_cast<cudaStream_t>(stream));
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
    return internimage::launch_dcnv3_backward<T>(g, grad_output, input, offset, mask, grad_input, grad_offset,
                                                 grad_mask, deterministic != 0, static_cast<cudaStream_t>(stream));
  });
}
