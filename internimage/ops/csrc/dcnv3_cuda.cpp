// The operators' CUDA implementations: allocate, choose device and stream, call the launchers of dcnv3.cu.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <tuple>

#include "arguments.h"
#include "dcnv3_launchers.h"

namespace internimage {
namespace {

int launcher_dtype(const Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float: return 0;
    case ScalarType::Half: return 1;
    case ScalarType::BFloat16: return 2;
    case ScalarType::Double: return 3;
    default: STD_TORCH_CHECK(false, "internimage::dcnv3: dtype must be float32, float64, float16 or bfloat16");
  }
}

void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

void check(int error) {
  STD_TORCH_CHECK(error != cudaErrorInvalidValue, "internimage::dcnv3: the CUDA kernels number what lies within an ",
                  "image by 32 bits; for images beyond 2^30 pixels, or rows of output beyond 2^30 elements, use ",
                  "internimage.ops.use_backend(\"torch\")");
  STD_CUDA_CHECK(static_cast<cudaError_t>(error));
}

Tensor forward_cuda(Tensor input, Tensor offset, Tensor mask, std::vector<int64_t> kernel_size,
                    std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                    int64_t groups, double offset_scale, bool remove_center, bool softmax, int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  input = torch::stable::contiguous(input), offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  const Tensor output = torch::stable::new_empty(input, {g.n, g.out_h, g.out_w, g.channels()});
  check(internimage_dcnv3_forward_cuda(
      launcher_dtype(input), input.const_data_ptr(), offset.const_data_ptr(), mask.const_data_ptr(),
      output.mutable_data_ptr(), g.n, g.h, g.w, g.out_h, g.out_w, g.groups, g.group_channels, g.kernel_h, g.kernel_w,
      g.stride_h, g.stride_w, g.pad_h, g.pad_w, g.dilation_h, g.dilation_w, g.offset_stride, g.mask_stride,
      g.offset_scale, g.remove_center, g.softmax, current_stream(input)));
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(Tensor grad_output, Tensor input, Tensor offset, Tensor mask,
                                                 std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
                                                 std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                 int64_t groups, double offset_scale, bool remove_center, bool softmax,
                                                 bool deterministic, int64_t version) {
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
  check(internimage_dcnv3_backward_cuda(
      launcher_dtype(input), grad_output.const_data_ptr(), input.const_data_ptr(), offset.const_data_ptr(),
      mask.const_data_ptr(), grad_input.mutable_data_ptr(), grad_offset.mutable_data_ptr(),
      grad_mask.mutable_data_ptr(), g.n, g.h, g.w, g.out_h, g.out_w, g.groups, g.group_channels, g.kernel_h,
      g.kernel_w, g.stride_h, g.stride_w, g.pad_h, g.pad_w, g.dilation_h, g.dilation_w, g.offset_stride, g.mask_stride,
      g.offset_scale, g.remove_center, g.softmax, deterministic, current_stream(input)));
  return {torch::stable::to(grad_input, dtype), grad_offset, grad_mask};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CUDA, m) {
  m.impl("dcnv3", TORCH_BOX(&internimage::forward_cuda));
  m.impl("dcnv3_backward", TORCH_BOX(&internimage::backward_cuda));
}
