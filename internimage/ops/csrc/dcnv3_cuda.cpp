// DCNv3 as an operator on CUDA: allocate, choose device and stream, call the launchers of dcnv3.cu.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "arguments.h"
#include "cuda_operators.h"
#include "dcnv3_launchers.h"

namespace internimage {
namespace {

constexpr char kDcnv3Limits[] = "internimage::dcnv3: the CUDA kernels number what lies within an image by 32 bits: at "
                                "most 2^30 pixels, and 2^30 elements in a row of the output";

Tensor dcnv3_cuda(Tensor input, Tensor offset, Tensor mask, std::vector<int64_t> kernel_size,
                  std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                  int64_t groups, double offset_scale, bool remove_center, bool softmax, int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  input = torch::stable::contiguous(input), offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  const Tensor output = torch::stable::new_empty(input, {g.n, g.out_h, g.out_w, g.channels()});
  check_launch(internimage_dcnv3_forward_cuda(
      launcher_dtype(input), input.const_data_ptr(), offset.const_data_ptr(), mask.const_data_ptr(),
      output.mutable_data_ptr(), g.n, g.h, g.w, g.out_h, g.out_w, g.groups, g.group_channels, g.kernel_h, g.kernel_w,
      g.stride_h, g.stride_w, g.pad_h, g.pad_w, g.dilation_h, g.dilation_w, g.offset_stride, g.mask_stride,
      g.offset_scale, g.remove_center, g.softmax, current_stream(input)), kDcnv3Limits);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> dcnv3_backward_cuda(Tensor grad_output, Tensor input, Tensor offset, Tensor mask,
                                                       std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
                                                       std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                       int64_t groups, double offset_scale, bool remove_center,
                                                       bool softmax, bool deterministic, int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  grad_output = torch::stable::contiguous(grad_output), input = torch::stable::contiguous(input);
  offset = torch::stable::contiguous(offset), mask = torch::stable::contiguous(mask);  // as their gradients
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  check_grad_output(grad_output, input, g);
  using torch::headeronly::ScalarType;
  const ScalarType dtype = input.scalar_type();
  const ScalarType accumulator = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  const Tensor grad_input = torch::stable::new_zeros(input, input.sizes(), accumulator);
  const Tensor grad_offset = torch::stable::new_empty(offset, offset.sizes());
  const Tensor grad_mask = torch::stable::new_empty(mask, mask.sizes());
  check_launch(internimage_dcnv3_backward_cuda(
      launcher_dtype(input), grad_output.const_data_ptr(), input.const_data_ptr(), offset.const_data_ptr(),
      mask.const_data_ptr(), grad_input.mutable_data_ptr(), grad_offset.mutable_data_ptr(),
      grad_mask.mutable_data_ptr(), g.n, g.h, g.w, g.out_h, g.out_w, g.groups, g.group_channels, g.kernel_h,
      g.kernel_w, g.stride_h, g.stride_w, g.pad_h, g.pad_w, g.dilation_h, g.dilation_w, g.offset_stride, g.mask_stride,
      g.offset_scale, g.remove_center, g.softmax, deterministic, current_stream(input)), kDcnv3Limits);
  return {torch::stable::to(grad_input, dtype), grad_offset, grad_mask};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CUDA, m) {
  m.impl("dcnv3", TORCH_BOX(&internimage::dcnv3_cuda));
  m.impl("dcnv3_backward", TORCH_BOX(&internimage::dcnv3_backward_cuda));
}
