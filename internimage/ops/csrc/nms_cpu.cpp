// Non-maximum suppression as an operator on the CPU; the kernel is in nms_cpu.h.
#include <torch/csrc/stable/library.h>

#include "images_cpu.h"
#include "nms_arguments.h"
#include "nms_cpu.h"

namespace internimage {
namespace {

Tensor nms_cpu(Tensor boxes, Tensor groups, double iou_threshold, int64_t version) {
  check_version(version);
  check_nms(boxes, groups);
  boxes = torch::stable::contiguous(boxes), groups = torch::stable::contiguous(groups);
  const Tensor kept = torch::stable::new_empty(boxes, {boxes.size(0)}, ScalarType::Bool);
  const auto run = [&](auto type) {
    using R = decltype(type);
    nms(data<R>(boxes), data<int64_t>(groups), boxes.size(0), R(iou_threshold), mutable_data<bool>(kept));
  };
  boxes.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return kept;
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) { m.impl("nms", TORCH_BOX(&internimage::nms_cpu)); }
