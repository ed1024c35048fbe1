// RoIAlign as an operator on CUDA: allocate, choose device and stream, call the launchers of roi_align.cu.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda_operators.h"
#include "roi_align_arguments.h"
#include "roi_align_launchers.h"

namespace internimage {
namespace {

constexpr char kRoIAlignLimits[] =
    "internimage::roi_align: the CUDA kernels take at most 2^30 RoIs, elements of a RoI's output and pixels of a map";

Tensor roi_align_cuda(Tensor input, Tensor rois, std::vector<int64_t> output_size, double spatial_scale,
                      int64_t sampling_ratio, bool aligned, int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const RoIAlign a = roi_align_of(input, rois, output_size, spatial_scale, sampling_ratio, aligned);
  input = torch::stable::contiguous(input), rois = torch::stable::contiguous(rois);
  const Tensor output = torch::stable::new_empty(input, {a.rois, a.channels, a.rows, a.columns});
  check_launch(internimage_roi_align_forward_cuda(launcher_dtype(input), input.const_data_ptr(), rois.const_data_ptr(),
                                                  output.mutable_data_ptr(), a.n, a.channels, a.height, a.width, a.rois,
                                                  a.rows, a.columns, a.scale, a.sampling_ratio, a.aligned,
                                                  current_stream(input)),
               kRoIAlignLimits);
  return output;
}

Tensor roi_align_backward_cuda(Tensor grad_output, Tensor input, Tensor rois, std::vector<int64_t> output_size,
                               double spatial_scale, int64_t sampling_ratio, bool aligned, bool deterministic,
                               int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const RoIAlign a = roi_align_of(input, rois, output_size, spatial_scale, sampling_ratio, aligned);
  check_grad_output(grad_output, input, a);
  grad_output = torch::stable::contiguous(grad_output), rois = torch::stable::contiguous(rois);
  const Tensor grad_input = torch::stable::new_zeros(input, input.sizes(), rois.scalar_type());
  check_launch(internimage_roi_align_backward_cuda(
                   launcher_dtype(input), grad_output.const_data_ptr(), rois.const_data_ptr(),
                   grad_input.mutable_data_ptr(), a.n, a.channels, a.height, a.width, a.rois, a.rows, a.columns,
                   a.scale, a.sampling_ratio, a.aligned, deterministic, current_stream(input)),
               kRoIAlignLimits);
  return torch::stable::to(grad_input, input.scalar_type());
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&internimage::roi_align_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&internimage::roi_align_backward_cuda));
}
