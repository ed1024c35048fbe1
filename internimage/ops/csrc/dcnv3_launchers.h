// The launchers of DCNv3 on CUDA, a plain C interface: dcnv3.cu implements it, the operator or any program calls it.
//
// Each returns a cudaError_t. dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64, of every tensor but grad_input.
//
//   input        [n, h, w, groups * group_channels]
//   offset       [n, out_h, out_w, groups * K * 2], x before y; K = kernel_h * kernel_w, one less with remove_center
//   mask         [n, out_h, out_w, groups * K]; the logits with softmax
//   output       [n, out_h, out_w, groups * group_channels], and so grad_output
//   grad_input   as input, zeroed by the caller; float32 for the half types
//   grad_offset  as offset, grad_mask as mask (of the logits with softmax), strides included
//
// All are contiguous, except that offset_stride and mask_stride say how many elements lie between output pixels of
// offset and mask, so that these may be parts of a wider tensor. Nothing is launched where there is nothing to write.
// No alignment beyond that of an element is asked for. cudaErrorInvalidValue: an unknown dtype, a null pointer to a tensor
// with elements, or more than 2^30 pixels in an image or elements in a row of the output.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int internimage_dcnv3_forward_cuda(
    int dtype, const void* input, const void* offset, const void* mask, void* output,
    int64_t n, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t groups, int64_t group_channels,
    int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, int64_t offset_stride, int64_t mask_stride,
    double offset_scale, int remove_center, int softmax, void* stream);

// deterministic: no atomic additions, the same bits on every run; slower.
int internimage_dcnv3_backward_cuda(
    int dtype, const void* grad_output, const void* input, const void* offset, const void* mask,
    void* grad_input, void* grad_offset, void* grad_mask,
    int64_t n, int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t groups, int64_t group_channels,
    int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, int64_t offset_stride, int64_t mask_stride,
    double offset_scale, int remove_center, int softmax, int deterministic, void* stream);

#ifdef __cplusplus
}
#endif
