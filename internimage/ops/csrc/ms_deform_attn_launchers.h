// The launchers of multi-scale deformable attention on CUDA, a plain C interface: ms_deform_attn.cu implements it, the
// operator or any program calls it.
//
// Each returns a cudaError_t. dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64, of value, weights, output and their
// gradients but grad_value. Locations, their gradient and grad_value are float32, or float64 for that dtype.
//
//   value           [n, pixels, heads, head_channels], the pixels of all levels one after the other, row by row
//   shapes          on the host: height and width of each level in turn; their products sum to pixels
//   locations       [n, queries, heads, levels, points, 2], x before y, from 0 to 1 over the level, borders included
//   weights         [n, queries, heads, levels, points]
//   output          [n, queries, heads * head_channels], and so grad_output
//   grad_value      as value, zeroed by the caller
//   grad_locations  as locations, grad_weights as weights
//
// All are contiguous. Nothing is launched where there is nothing to write. No alignment beyond that of an element is
// asked for. cudaErrorInvalidValue: an unknown dtype, a null pointer to a tensor with elements, more than 16 levels, or
// more than 2^30 pixels in an image, points of a head in an image or elements in a row of the output.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int internimage_ms_deform_attn_forward_cuda(
    int dtype, const void* value, const void* locations, const void* weights, void* output,
    int64_t n, int64_t pixels, int64_t heads, int64_t head_channels, int64_t queries, int64_t levels, int64_t points,
    const int64_t* shapes, void* stream);

// deterministic: no atomic additions, the same bits on every run; slower.
int internimage_ms_deform_attn_backward_cuda(
    int dtype, const void* grad_output, const void* value, const void* locations, const void* weights,
    void* grad_value, void* grad_locations, void* grad_weights,
    int64_t n, int64_t pixels, int64_t heads, int64_t head_channels, int64_t queries, int64_t levels, int64_t points,
    const int64_t* shapes, int deterministic, void* stream);

#ifdef __cplusplus
}
#endif
