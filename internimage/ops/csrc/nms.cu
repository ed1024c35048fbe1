// Launches the kernels of nms.cuh. Includes nothing of torch, so that nvcc takes seconds.
#include "nms_launchers.h"

#include "cuda_launch.cuh"
#include "nms.cuh"

namespace internimage {
namespace {

template <typename Real>
cudaError_t launch_nms(const void* boxes, const void* groups, void* scratch, void* kept, int64_t count,
                       double iou_threshold, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  if (count < 0 || double(count) > kMostPlaces || !boxes || !groups || !scratch || !kept) return cudaErrorInvalidValue;
  const int64_t words = (count + kWordBits - 1) / kWordBits;
  const auto* const group = static_cast<const int64_t*>(groups);
  auto* const removed = static_cast<uint32_t*>(scratch);
  const cudaError_t error = for_each_part(1, count, words, [&](const Part& part) {
    const int64_t work = part.rows * words;
    return launch(nms_suppresses<Real>, work, stream, int(work), part.first_row, int(count), Divisor(words),
                  Real(iou_threshold), static_cast<const Real*>(boxes), group, removed + words);
  });
  if (error != cudaSuccess) return error;
  return launch(nms_keep, kThreads, stream, int(count), int(words), group,
                static_cast<const uint32_t*>(removed + words), removed, static_cast<bool*>(kept));
}

}  // namespace
}  // namespace internimage

extern "C" int internimage_nms_cuda(int dtype, const void* boxes, const void* groups, void* scratch, void* kept,
                                    int64_t count, double iou_threshold, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case 0: return internimage::launch_nms<float>(boxes, groups, scratch, kept, count, iou_threshold, on);
    case 3: return internimage::launch_nms<double>(boxes, groups, scratch, kept, count, iou_threshold, on);
    default: return cudaErrorInvalidValue;
  }
}
