// The arguments of non-maximum suppression, checked as arguments.h explains.
#pragma once

#include "arguments.h"

namespace internimage {

inline void check_nms(const Tensor& boxes, const Tensor& groups) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && groups.dim() == 1 && groups.size(0) == boxes.size(0),
                  "internimage::nms: boxes must be [K, 4] and groups [K]");
  STD_TORCH_CHECK((boxes.scalar_type() == ScalarType::Float || boxes.scalar_type() == ScalarType::Double) &&
                      groups.scalar_type() == ScalarType::Long && groups.device() == boxes.device(),
                  "internimage::nms: boxes must be float32 or float64 and groups int64, on one device");
}

}  // namespace internimage
