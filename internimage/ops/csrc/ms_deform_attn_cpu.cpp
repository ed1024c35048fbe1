// Multi-scale deformable attention as an operator on the CPU: allocate, divide the work over threads, call the kernels of
// ms_deform_attn_cpu.h.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "attention_arguments.h"
#include "images_cpu.h"
#include "ms_deform_attn_cpu.h"

namespace internimage {
namespace {

constexpr int64_t kQueriesPerTask = 16;

Tensor ms_deform_attn_cpu(Tensor value, Tensor locations, Tensor weights, std::vector<int64_t> shapes,
                          int64_t version) {
  check_version(version);
  value = torch::stable::contiguous(value);
  locations = torch::stable::contiguous(locations), weights = torch::stable::contiguous(weights);
  const Attention a = attention_of(value, locations, weights, shapes);
  check_image(value.scalar_type(), a.pixels * a.heads, a.head_channels);
  const Tensor output = torch::stable::new_empty(value, {a.n, a.queries, a.channels()});
  dispatch(value.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Tensor image = image_of<T>(value, a.n * a.pixels * a.heads, a.head_channels);
    torch::stable::parallel_for(0, a.n * a.queries, kQueriesPerTask, [&](int64_t begin, int64_t end) {
      ms_deform_attn_forward(a, data<Real<T>>(image), data<Real<T>>(locations), data<T>(weights),
                             mutable_data<T>(output), begin, end);
    });
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_cpu(Tensor grad_output, Tensor value, Tensor locations,
                                                               Tensor weights, std::vector<int64_t> shapes,
                                                               bool /* deterministic: always is */, int64_t version) {
  check_version(version);
  grad_output = torch::stable::contiguous(grad_output), value = torch::stable::contiguous(value);
  locations = torch::stable::contiguous(locations), weights = torch::stable::contiguous(weights);
  const Attention a = attention_of(value, locations, weights, shapes);
  check_image(value.scalar_type(), a.pixels * a.heads, a.head_channels);
  check_grad_output(grad_output, value, a);
  const Tensor grad_locations = torch::stable::new_empty(locations, locations.sizes());
  const Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  Tensor grad_value;
  dispatch(value.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using R = Real<T>;
    const Tensor image = image_of<T>(value, a.n * a.pixels * a.heads, a.head_channels);
    const Tensor grad_image = zero_gradient<R>(image);
    torch::stable::parallel_for(0, a.n * a.heads, 1, [&](int64_t begin, int64_t end) {
      ms_deform_attn_backward(a, data<T>(grad_output), data<R>(image), data<R>(locations), data<T>(weights),
                              mutable_data<R>(grad_image), mutable_data<R>(grad_locations),
                              mutable_data<T>(grad_weights), begin, end);
    });
    grad_value = from_image<T>(grad_image, value, a.n * a.pixels * a.heads, a.head_channels);
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&internimage::ms_deform_attn_cpu));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&internimage::ms_deform_attn_backward_cpu));
}
