// The arguments of multi-scale deformable attention, checked as arguments.h explains.
#pragma once

#include "arguments.h"
#include "attention.h"

namespace internimage {

// `shapes` must outlive the result.
inline Attention attention_of(const Tensor& value, const Tensor& locations, const Tensor& weights,
                              const std::vector<int64_t>& shapes) {
  STD_TORCH_CHECK(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5,
                  "internimage::ms_deform_attn: value must have 4 axes, sampling_locations 6 and attention_weights 5, ",
                  "got ", value.dim(), ", ", locations.dim(), " and ", weights.dim());
  using torch::headeronly::ScalarType;
  const ScalarType real = value.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(weights.scalar_type() == value.scalar_type() && locations.scalar_type() == real,
                  "internimage::ms_deform_attn: attention_weights must be of the dtype of value, and sampling_locations ",
                  "float32, or float64 as value");
  STD_TORCH_CHECK(locations.device() == value.device() && weights.device() == value.device(),
                  "internimage::ms_deform_attn: value, sampling_locations and attention_weights must be on one device");
  Attention a{};
  a.n = value.size(0), a.pixels = value.size(1), a.heads = value.size(2), a.head_channels = value.size(3);
  a.queries = weights.size(1), a.levels = weights.size(3), a.points = weights.size(4);
  a.shapes = shapes.data();
  STD_TORCH_CHECK(a.heads > 0 && a.levels > 0 && a.points > 0 && int64_t(shapes.size()) == 2 * a.levels,
                  "internimage::ms_deform_attn: spatial_shapes must hold height and width of ", a.levels,
                  " levels, at least one, and there must be heads and points; got ", shapes.size(), " numbers, ",
                  a.heads, " heads and ", a.points, " points");
  int64_t pixels = 0;
  for (int64_t level = 0; level < a.levels; ++level) {
    STD_TORCH_CHECK(a.height(level) > 0 && a.width(level) > 0 && a.height(level) <= a.pixels / a.width(level),
                    "internimage::ms_deform_attn: level ", level, " of ", a.height(level), " x ", a.width(level),
                    " pixels does not fit the ", a.pixels, " of value");
    pixels += a.height(level) * a.width(level);
  }
  STD_TORCH_CHECK(pixels == a.pixels, "internimage::ms_deform_attn: value has ", a.pixels, " pixels, its levels have ",
                  pixels);
  const auto is = [&](const Tensor& x) {
    return x.size(0) == a.n && x.size(1) == a.queries && x.size(2) == a.heads && x.size(3) == a.levels &&
           x.size(4) == a.points;
  };
  STD_TORCH_CHECK(is(weights) && is(locations) && locations.size(5) == 2,
                  "internimage::ms_deform_attn: attention_weights must be [", a.n, ", Q, ", a.heads,
                  ", levels, points], and sampling_locations the same with an axis of 2 behind");
  return a;
}

inline void check_grad_output(const Tensor& grad_output, const Tensor& value, const Attention& a) {
  STD_TORCH_CHECK(grad_output.scalar_type() == value.scalar_type() && grad_output.device() == value.device() &&
                      grad_output.dim() == 3 && grad_output.size(0) == a.n && grad_output.size(1) == a.queries &&
                      grad_output.size(2) == a.channels(),
                  "internimage::ms_deform_attn_backward: grad_output must be [", a.n, ", ", a.queries, ", ",
                  a.channels(), "], of the dtype and on the device of value");
}

}  // namespace internimage
