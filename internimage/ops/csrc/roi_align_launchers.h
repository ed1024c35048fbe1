// The launchers of RoIAlign on CUDA, a plain C interface: roi_align.cu implements it, the operator or any program calls
// it.
//
// Each returns a cudaError_t. dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64, of input, output and grad_output.
// rois and grad_input are float32, or float64 for that dtype.
//
//   input       [n, channels, height, width]
//   rois        [rois, 5]: index of the image, x1, y1, x2, y2
//   output      [rois, channels, rows, columns], and so grad_output
//   grad_input  as input, zeroed by the caller
//
// All are contiguous. Nothing is launched where there is nothing to write. cudaErrorInvalidValue: an unknown dtype, a
// null pointer to a tensor with elements, or more than 2^30 RoIs, elements in a RoI's output, or pixels of an image.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int internimage_roi_align_forward_cuda(
    int dtype, const void* input, const void* rois, void* output,
    int64_t n, int64_t channels, int64_t height, int64_t width, int64_t number, int64_t rows, int64_t columns,
    double scale, int64_t sampling_ratio, int aligned, void* stream);

// deterministic: no atomic additions, the same bits on every run; slower.
int internimage_roi_align_backward_cuda(
    int dtype, const void* grad_output, const void* rois, void* grad_input,
    int64_t n, int64_t channels, int64_t height, int64_t width, int64_t number, int64_t rows, int64_t columns,
    double scale, int64_t sampling_ratio, int aligned, int deterministic, void* stream);

#ifdef __cplusplus
}
#endif
