// DCNv3 as an operator on the CPU: allocate, divide the work over threads, call the kernels of dcnv3_cpu.h.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "arguments.h"
#include "dcnv3_cpu.h"
#include "images_cpu.h"

namespace internimage {
namespace {

constexpr int64_t kPixelsPerTask = 32;

Tensor dcnv3_cpu(Tensor input, Tensor offset, Tensor mask, std::vector<int64_t> kernel_size,
                 std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                 int64_t groups, double offset_scale, bool remove_center, bool softmax, int64_t version) {
  check_version(version);
  input = torch::stable::contiguous(input), offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  check_image(input.scalar_type(), g.h * g.w * g.groups, g.group_channels);
  const Tensor output = torch::stable::new_empty(input, {g.n, g.out_h, g.out_w, g.channels()});
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Tensor image = image_of<T>(input, g.n * g.h * g.w * g.groups, g.group_channels);
    torch::stable::parallel_for(0, g.output_pixels(), kPixelsPerTask, [&](int64_t begin, int64_t end) {
      dcnv3_forward(g, data<Real<T>>(image), data<T>(offset), data<T>(mask), mutable_data<T>(output), begin, end);
    });
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> dcnv3_backward_cpu(Tensor grad_output, Tensor input, Tensor offset, Tensor mask,
                                                      std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
                                                      std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                                      int64_t groups, double offset_scale, bool remove_center,
                                                      bool softmax, bool /* deterministic: always is */,
                                                      int64_t version) {
  check_version(version);
  grad_output = torch::stable::contiguous(grad_output), input = torch::stable::contiguous(input);
  offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  check_image(input.scalar_type(), g.h * g.w * g.groups, g.group_channels);
  check_grad_output(grad_output, input, g);
  const Tensor grad_offset = torch::stable::new_empty(offset, offset.sizes());
  const Tensor grad_mask = torch::stable::new_empty(mask, mask.sizes());
  Tensor grad_input;
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using R = Real<T>;
    const Tensor image = image_of<T>(input, g.n * g.h * g.w * g.groups, g.group_channels);
    const Tensor grad_image = zero_gradient<R>(image);
    torch::stable::parallel_for(0, g.n * g.groups, 1, [&](int64_t begin, int64_t end) {
      dcnv3_backward(g, data<T>(grad_output), data<R>(image), data<T>(offset), data<T>(mask),
                     mutable_data<R>(grad_image), mutable_data<T>(grad_offset), mutable_data<T>(grad_mask), begin, end);
    });
    grad_input = from_image<T>(grad_image, input, g.n * g.h * g.w * g.groups, g.group_channels);
  });
  return {grad_input, grad_offset, grad_mask};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) {
  m.impl("dcnv3", TORCH_BOX(&internimage::dcnv3_cpu));
  m.impl("dcnv3_backward", TORCH_BOX(&internimage::dcnv3_backward_cpu));
}
