// The arguments of RoIAlign, checked as arguments.h explains.
#pragma once

#include "arguments.h"
#include "roi_align.h"

namespace internimage {

inline RoIAlign roi_align_of(const Tensor& input, const Tensor& rois, const std::vector<int64_t>& output_size,
                             double spatial_scale, int64_t sampling_ratio, bool aligned) {
  STD_TORCH_CHECK(input.dim() == 4 && rois.dim() == 2 && rois.size(1) == 5,
                  "internimage::roi_align: input must be [N, C, H, W] and rois [K, 5]");
  using torch::headeronly::ScalarType;
  const ScalarType real = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(rois.scalar_type() == real && rois.device() == input.device(),
                  "internimage::roi_align: rois must be float32, or float64 as input, and on its device");
  STD_TORCH_CHECK(output_size.size() == 2 && output_size[0] > 0 && output_size[1] > 0 && input.size(2) > 0 &&
                      input.size(3) > 0,
                  "internimage::roi_align: input must have pixels and output_size two positive integers");
  STD_TORCH_CHECK(sampling_ratio >= 0 && sampling_ratio < 1 << 30,
                  "internimage::roi_align: sampling_ratio must be from 0 to 2^30, got ", sampling_ratio);
  return {input.size(0),  input.size(1),  input.size(2), input.size(3),  rois.size(0),
          output_size[0], output_size[1], spatial_scale, sampling_ratio, aligned};
}

inline void check_grad_output(const Tensor& grad_output, const Tensor& input, const RoIAlign& a) {
  STD_TORCH_CHECK(grad_output.scalar_type() == input.scalar_type() && grad_output.device() == input.device() &&
                      grad_output.dim() == 4 && grad_output.size(0) == a.rois && grad_output.size(1) == a.channels &&
                      grad_output.size(2) == a.rows && grad_output.size(3) == a.columns,
                  "internimage::roi_align_backward: grad_output must be [", a.rois, ", ", a.channels, ", ", a.rows,
                  ", ", a.columns, "], of the dtype and on the device of input");
}

}  // namespace internimage
