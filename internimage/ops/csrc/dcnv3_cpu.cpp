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

void check_size(const Geometry& g, ScalarType dtype) {
  const int64_t places = dtype == ScalarType::Double ? places_of_image<double>(g) : places_of_image<float>(g);
  STD_TORCH_CHECK(places <= std::numeric_limits<int32_t>::max(), "internimage::dcnv3: an image takes at most 16 GiB, got ",
                  g.h, " x ", g.w, " pixels of ", g.channels(), " channels; cut it into tiles");
}

// The input as the kernels sample it.
template <typename T>
Tensor image_of(const Geometry& g, const Tensor& input) {
  if (is_image<T>(g)) return input;
  constexpr ScalarType dtype = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor image =
      torch::stable::new_empty(input, {g.n, g.h, g.w, g.groups * padded_group_channels<Real<T>>(g)}, dtype);
  torch::stable::parallel_for(0, g.n * g.h * g.w, kPixelsPerTask, [&](int64_t begin, int64_t end) {
    pack(g, data<T>(input), mutable_data<Real<T>>(image), begin, end);
  });
  return image;
}

Tensor forward(Tensor input, Tensor offset, Tensor mask, std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
               std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups, double offset_scale,
               bool remove_center, bool softmax, int64_t version) {
  check_version(version);
  input = torch::stable::contiguous(input), offset = walkable(offset), mask = walkable(mask);
  const Geometry g = geometry_of(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
                                 remove_center, softmax);
  check_size(g, input.scalar_type());
  const Tensor output = torch::stable::new_empty(input, {g.n, g.out_h, g.out_w, g.channels()});
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Tensor image = image_of<T>(g, input);
    torch::stable::parallel_for(0, g.output_pixels(), kPixelsPerTask, [&](int64_t begin, int64_t end) {
      dcnv3_forward(g, data<Real<T>>(image), data<T>(offset), data<T>(mask), mutable_data<T>(output), begin, end);
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
  check_size(g, input.scalar_type());
  check_grad_output(grad_output, input, g);
  const Tensor grad_offset = torch::stable::new_empty(offset, offset.sizes());
  const Tensor grad_mask = torch::stable::new_empty(mask, mask.sizes());
  Tensor grad_input;
  dispatch(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using R = Real<T>;
    const Tensor image = image_of<T>(g, input);
    const Tensor grad_image = torch::stable::new_zeros(image, image.sizes());
    torch::stable::parallel_for(0, g.n * g.groups, 1, [&](int64_t begin, int64_t end) {
      dcnv3_backward(g, data<T>(grad_output), data<R>(image), data<T>(offset), data<T>(mask),
                     mutable_data<R>(grad_image), mutable_data<T>(grad_offset), mutable_data<T>(grad_mask), begin, end);
    });
    if (is_image<T>(g)) return (void)(grad_input = grad_image);
    grad_input = torch::stable::new_empty(input, input.sizes());
    torch::stable::parallel_for(0, g.n * g.h * g.w, kPixelsPerTask, [&](int64_t begin, int64_t end) {
      unpack(g, data<R>(grad_image), mutable_data<T>(grad_input), begin, end);
    });
  });
  return {grad_input, grad_offset, grad_mask};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) {
  m.impl("dcnv3", TORCH_BOX(&internimage::forward));
  m.impl("dcnv3_backward", TORCH_BOX(&internimage::backward));
}
