// The sizes and options of one DCNv3 call, as every kernel of this library takes them. Includes nothing of torch.
#pragma once

#include <cstdint>

namespace internimage {

struct Geometry {
  int64_t n, h, w;                    // input [n, h, w, groups * group_channels]
  int64_t out_h, out_w;               // output [n, out_h, out_w, groups * group_channels]
  int64_t groups, group_channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t offset_stride, mask_stride; // elements between output pixels: the tensor may lie inside a wider one
  double offset_scale;
  bool remove_center, softmax;

  int64_t taps() const { return kernel_h * kernel_w - (remove_center ? 1 : 0); }  // sampling points a group
  int64_t channels() const { return groups * group_channels; }
  int64_t output_pixels() const { return n * out_h * out_w; }
};

}  // namespace internimage
