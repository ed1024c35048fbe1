// The operators' CPU implementations: allocate, divide the work over threads, call the kernels of dcnv3_cpu.h.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "arguments.h"
#include "dcnv3_cpu.h"

namespace internimage {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kPixelsPerTask = 32;

template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(c10::Half{});
    case ScalarType::BFloat16: return f(c10::BFloat16{});
    default: STD_TORCH_CHECK(false, "internimage::dcnv3: dtype must be float32, float64, float16 or bfloat16");
  }
}

template <typename T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <typename T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

void check_size(const Geometry& g) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(g.h <= most / std::max<int64_t>(g.w, 1), "internimage::dcnv3: an image has at most 2^31 - 1 pixels, ",
                  "got ", g.h, " x ", g.w, "; cut it into tiles");
}

Tensor forward(Tensor input, Tensor offset, Tensor mask, std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
               std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups, double offset_scale,
               bool remove_center, bool softmax, int64_t version) {
  check_version(version);
  input = torch::stable::contiguous(input), offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  check_size(g);
  const Tensor output = torch::stable::new_empty(input, {g.n, g.out_h, g.out_w, g.channels()});
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    torch::stable::parallel_for(0, g.output_pixels(), kPixelsPerTask, [&](int64_t begin, int64_t end) {
      dcnv3_forward(g, data<T>(input), data<T>(offset), data<T>(mask), mutable_data<T>(output), begin, end);
    });
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_output, Tensor input, Tensor offset, Tensor mask,
                                            std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
                                            std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                            int64_t groups, double offset_scale, bool remove_center, bool softmax,
                                            bool /* deterministic: always is */, int64_t version) {
  check_version(version);
  grad_output = torch::stable::contiguous(grad_output), input = torch::stable::contiguous(input);
  offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  check_size(g);
  check_grad_output(grad_output, input, g);
  const Tensor grad_offset = torch::stable::new_empty(offset, offset.sizes());
  const Tensor grad_mask = torch::stable::new_empty(mask, mask.sizes());
  const ScalarType dtype = input.scalar_type();
  const Tensor grad_input =
      torch::stable::new_zeros(input, input.sizes(), dtype == ScalarType::Double ? dtype : ScalarType::Float);
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    torch::stable::parallel_for(0, g.n * g.groups, 1, [&](int64_t begin, int64_t end) {
      dcnv3_backward(g, data<T>(grad_output), data<T>(input), data<T>(offset), data<T>(mask),
                     mutable_data<Real<T>>(grad_input), mutable_data<T>(grad_offset), mutable_data<T>(grad_mask), begin,
                     end);
    });
  });
  return {torch::stable::to(grad_input, dtype), grad_offset, grad_mask};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) {
  m.impl("dcnv3", TORCH_BOX(&internimage::forward));
  m.impl("dcnv3_backward", TORCH_BOX(&internimage::backward));
}
