// Non-maximum suppression as an operator on CUDA: allocate, choose device and stream, call the launcher of nms.cu.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda_operators.h"
#include "nms_arguments.h"
#include "nms_launchers.h"

namespace internimage {
namespace {

constexpr char kNmsLimits[] = "internimage::nms: the CUDA kernels take at most 2^30 boxes";

Tensor nms_cuda(Tensor boxes, Tensor groups, double iou_threshold, int64_t version) {
  check_version(version);
  check_nms(boxes, groups);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  boxes = torch::stable::contiguous(boxes), groups = torch::stable::contiguous(groups);
  using torch::headeronly::ScalarType;
  const int64_t count = boxes.size(0);
  const Tensor scratch = torch::stable::new_empty(boxes, {count + 1, (count + 31) / 32}, ScalarType::Int);
  const Tensor kept = torch::stable::new_empty(boxes, {count}, ScalarType::Bool);
  check_launch(internimage_nms_cuda(launcher_dtype(boxes), boxes.const_data_ptr(), groups.const_data_ptr(),
                                    scratch.mutable_data_ptr(), kept.mutable_data_ptr(), count, iou_threshold,
                                    current_stream(boxes)),
               kNmsLimits);
  return kept;
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CUDA, m) { m.impl("nms", TORCH_BOX(&internimage::nms_cuda)); }
