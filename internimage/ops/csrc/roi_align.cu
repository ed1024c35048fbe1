// Launches the kernels of roi_align.cuh. Includes nothing of torch, so that nvcc takes seconds.
#include "roi_align_launchers.h"

#include <algorithm>

#include "cuda_launch.cuh"
#include "roi_align.cuh"

namespace internimage {
namespace {

// Whether 32 bits number the RoIs, what a RoI has in the output, and the pixels of an image.
bool fits_32_bits(const RoIAlign& a) {
  const double most = std::max({double(a.rois), double(a.channels) * double(a.rows) * double(a.columns),
                                double(a.height) * double(a.width), double(a.sampling_ratio)});
  return most <= kMostPlaces;
}

template <typename T>
cudaError_t launch_roi_align_forward(const RoIAlign& a, const void* input, const void* rois, void* output,
                                     cudaStream_t stream) {
  if (!fits_32_bits(a)) return cudaErrorInvalidValue;
  const int64_t items = a.channels * a.bins();
  if (a.rois * items == 0) return cudaSuccess;
  const Operand inputs{input, a.n * a.channels * a.pixels(), sizeof(T)}, places{rois, 5, sizeof(Real<T>)};
  for (const Operand& operand : {inputs, places, Operand{output, items, sizeof(T)}})
    if (operand.missing()) return cudaErrorInvalidValue;
  return for_each_part(1, a.rois, items, [&](const Part& part) {
    const int64_t work = part.rows * items;
    return launch(roi_align_forward<T>, work, stream, RoIAlignLayout(a, work, part.first_row * items), part.first_row,
                  static_cast<const T*>(input), static_cast<const Real<T>*>(rois), static_cast<T*>(output));
  });
}

template <typename T>
cudaError_t launch_roi_align_backward(const RoIAlign& a, const void* grad_output, const void* rois, void* grad_input,
                                      bool deterministic, cudaStream_t stream) {
  if (!fits_32_bits(a)) return cudaErrorInvalidValue;
  const int64_t items = a.channels * a.bins(), planes = a.n * a.channels;
  if (a.rois * items == 0 || planes * a.pixels() == 0) return cudaSuccess;
  const Operand grads{grad_output, items, sizeof(T)}, places{rois, 5, sizeof(Real<T>)};
  for (const Operand& operand : {grads, places, Operand{grad_input, planes, sizeof(Real<T>)}})
    if (operand.missing()) return cudaErrorInvalidValue;
  const int64_t rows = deterministic ? planes : a.rois, in_row = deterministic ? a.pixels() : items;
  const auto kernel = deterministic ? roi_align_backward_in_order<T> : roi_align_backward<T>;
  return for_each_part(1, rows, in_row, [&](const Part& part) {
    const int64_t work = part.rows * in_row;
    return launch(kernel, work, stream, RoIAlignLayout(a, work, part.first_row * in_row), part.first_row,
                  static_cast<const T*>(grad_output), static_cast<const Real<T>*>(rois),
                  static_cast<Real<T>*>(grad_input));
  });
}

}  // namespace
}  // namespace internimage

extern "C" int internimage_roi_align_forward_cuda(
    int dtype, const void* input, const void* rois, void* output,
    int64_t n, int64_t channels, int64_t height, int64_t width, int64_t number, int64_t rows, int64_t columns,
    double scale, int64_t sampling_ratio, int aligned, void* stream) {
  const internimage::RoIAlign a{n,       channels, height,         width,       number, rows,
                                columns, scale,    sampling_ratio, aligned != 0};
  return internimage::with_dtype(dtype, [&](auto example) {
    using T = decltype(example);
    return internimage::launch_roi_align_forward<T>(a, input, rois, output, static_cast<cudaStream_t>(stream));
  });
}

extern "C" int internimage_roi_align_backward_cuda(
    int dtype, const void* grad_output, const void* rois, void* grad_input,
    int64_t n, int64_t channels, int64_t height, int64_t width, int64_t number, int64_t rows, int64_t columns,
    double scale, int64_t sampling_ratio, int aligned, int deterministic, void* stream) {
  const internimage::RoIAlign a{n,       channels, height,         width,       number, rows,
                                columns, scale,    sampling_ratio, aligned != 0};
  return internimage::with_dtype(dtype, [&](auto example) {
    using T = decltype(example);
    return internimage::launch_roi_align_backward<T>(a, grad_output, rois, grad_input, deterministic != 0,
                                                     static_cast<cudaStream_t>(stream));
  });
}
