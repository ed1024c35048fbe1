// Multi-scale deformable attention as an operator on CUDA: allocate, choose device and stream, call the launchers of
// ms_deform_attn.cu.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "attention_arguments.h"
#include "cuda_operators.h"
#include "ms_deform_attn_launchers.h"

namespace internimage {
namespace {

constexpr char kAttentionLimits[] =
    "internimage::ms_deform_attn: the CUDA kernels take at most 16 levels, and number what lies within an image by 32 "
    "bits: at most 2^30 pixels, points of a head, and elements in a row of the output";

Tensor ms_deform_attn_cuda(Tensor value, Tensor locations, Tensor weights, std::vector<int64_t> shapes,
                           int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  value = torch::stable::contiguous(value);
  locations = torch::stable::contiguous(locations), weights = torch::stable::contiguous(weights);
  const Attention a = attention_of(value, locations, weights, shapes);
  const Tensor output = torch::stable::new_empty(value, {a.n, a.queries, a.channels()});
  check_launch(internimage_ms_deform_attn_forward_cuda(
                   launcher_dtype(value), value.const_data_ptr(), locations.const_data_ptr(), weights.const_data_ptr(),
                   output.mutable_data_ptr(), a.n, a.pixels, a.heads, a.head_channels, a.queries, a.levels, a.points,
                   a.shapes, current_stream(value)),
               kAttentionLimits);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_cuda(Tensor grad_output, Tensor value, Tensor locations,
                                                                Tensor weights, std::vector<int64_t> shapes,
                                                                bool deterministic, int64_t version) {
  check_version(version);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  grad_output = torch::stable::contiguous(grad_output), value = torch::stable::contiguous(value);
  locations = torch::stable::contiguous(locations), weights = torch::stable::contiguous(weights);
  const Attention a = attention_of(value, locations, weights, shapes);
  check_grad_output(grad_output, value, a);
  const Tensor grad_value = torch::stable::new_zeros(value, value.sizes(), locations.scalar_type());
  const Tensor grad_locations = torch::stable::new_empty(locations, locations.sizes());
  const Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  check_launch(internimage_ms_deform_attn_backward_cuda(
                   launcher_dtype(value), grad_output.const_data_ptr(), value.const_data_ptr(),
                   locations.const_data_ptr(), weights.const_data_ptr(), grad_value.mutable_data_ptr(),
                   grad_locations.mutable_data_ptr(), grad_weights.mutable_data_ptr(), a.n, a.pixels, a.heads,
                   a.head_channels, a.queries, a.levels, a.points, a.shapes, deterministic, current_stream(value)),
               kAttentionLimits);
  return {torch::stable::to(grad_value, value.scalar_type()), grad_locations, grad_weights};
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&internimage::ms_deform_attn_cuda));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&internimage::ms_deform_attn_backward_cuda));
}
