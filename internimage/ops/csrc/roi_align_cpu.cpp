// RoIAlign as an operator on the CPU: allocate, divide the work over threads, call the kernels of roi_align_cpu.h.
#include <torch/csrc/stable/library.h>

#include "images_cpu.h"
#include "roi_align_arguments.h"
#include "roi_align_cpu.h"

namespace internimage {
namespace {

constexpr int64_t kRoIsPerTask = 4;

bool is_channels_last(const Tensor& x) {
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
  return x.stride(1) == 1 && x.stride(3) == channels && x.stride(2) == width * channels &&
         (x.size(0) == 1 || x.stride(0) == height * width * channels);
}

Tensor roi_align_cpu(Tensor input, Tensor rois, std::vector<int64_t> output_size, double spatial_scale,
                     int64_t sampling_ratio, bool aligned, int64_t version) {
  check_version(version);
  const RoIAlign a = roi_align_of(input, rois, output_size, spatial_scale, sampling_ratio, aligned);
  const bool channels_last = is_channels_last(input);
  if (!channels_last) input = torch::stable::contiguous(input);
  rois = torch::stable::contiguous(rois);
  const Tensor output = torch::stable::new_empty(input, {a.rois, a.channels, a.rows, a.columns});
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    torch::stable::parallel_for(0, a.rois, kRoIsPerTask, [&](int64_t begin, int64_t end) {
      roi_align_forward(a, data<T>(input), channels_last, data<Real<T>>(rois), mutable_data<T>(output), begin, end);
    });
  });
  return output;
}

Tensor roi_align_backward_cpu(Tensor grad_output, Tensor input, Tensor rois, std::vector<int64_t> output_size,
                              double spatial_scale, int64_t sampling_ratio, bool aligned,
                              bool /* deterministic: always is */, int64_t version) {
  check_version(version);
  const RoIAlign a = roi_align_of(input, rois, output_size, spatial_scale, sampling_ratio, aligned);
  check_grad_output(grad_output, input, a);
  grad_output = torch::stable::contiguous(grad_output), rois = torch::stable::contiguous(rois);
  const Tensor grad_input = torch::stable::new_zeros(input, input.sizes(), real_dtype(input.scalar_type()));
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    constexpr int64_t block = kBlock<Real<T>>;
    torch::stable::parallel_for(0, (a.channels + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
      roi_align_backward(a, data<T>(grad_output), data<Real<T>>(rois), mutable_data<Real<T>>(grad_input), begin, end);
    });
  });
  return torch::stable::to(grad_input, input.scalar_type());
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&internimage::roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&internimage::roi_align_backward_cpu));
}
