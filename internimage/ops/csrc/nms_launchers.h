// The launcher of non-maximum suppression on CUDA, a plain C interface: nms.cu implements it, the operator or any
// program calls it.
//
// It returns a cudaError_t. dtype of boxes: 0 float32, 3 float64.
//
//   boxes    [count, 4], corners x1, y1, x2, y2, in falling order of score within each group
//   groups   [count], int64, those of one group side by side; boxes of a negative one are not kept
//   scratch  [count + 1, (count + 31) / 32], 32-bit words
//   kept     [count], bool
//
// All are contiguous. cudaErrorInvalidValue: another dtype, a null pointer, or more than 2^30 boxes.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int internimage_nms_cuda(int dtype, const void* boxes, const void* groups, void* scratch, void* kept, int64_t count,
                         double iou_threshold, void* stream);

#ifdef __cplusplus
}
#endif
