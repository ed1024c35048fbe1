// What the CPU and the CUDA operators do with their arguments before a kernel runs: stable-ABI headers only.
//
// The public Python function explains what is wrong with a call and how to mend it. The checks here are the last line
// of defence for direct calls of the operator and for packages that run without Python: they keep a kernel from
// touching memory that is not its own.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

#include "cpu_features.h"
#include "geometry.h"

namespace internimage {

using torch::stable::Tensor;

constexpr int64_t kSchemaVersion = 1;  // SCHEMA_VERSION of schema.py

// Elements between neighbouring pixels of x [N, Q, R, channels], or 0 if no single number says where a pixel begins.
inline int64_t pixel_stride(const Tensor& x) {
  const int64_t channels = x.size(3);
  if (x.numel() == 0) return channels;
  if (channels > 1 && x.stride(3) != 1) return 0;
  int64_t stride = channels;
  int64_t pixels = 1;
  for (int64_t axis = 2; axis >= 0; --axis) {
    if (x.size(axis) == 1) continue;  // such an axis has no stride worth the name
    if (pixels == 1) stride = x.stride(axis);
    if (x.stride(axis) != stride * pixels) return 0;
    pixels *= x.size(axis);
  }
  return stride >= channels ? stride : 0;  // an expanded tensor repeats its pixels: copied, as any other odd layout
}

// x itself where a kernel can walk it pixel by pixel, else a contiguous copy.
inline Tensor walkable(const Tensor& x) { return pixel_stride(x) > 0 ? x : torch::stable::contiguous(x); }

// The first thing that every operator does.
inline void check_version(int64_t version) {
  static const char* const missing = missing_instruction_set();
  STD_TORCH_CHECK(missing == nullptr, "internimage: this library was built for CPUs with ", missing,
                  ", which this one lacks; build it on this machine, or set INTERNIMAGE_BACKEND=torch");
  STD_TORCH_CHECK(
      version == kSchemaVersion, "internimage: this library implements version ", kSchemaVersion,
      " of its operators, the call was made for version ", version,
      "; export the program again with the installed internimage, or load the library that the program came with");
}

inline int64_t at(const std::vector<int64_t>& height_width, int axis, const char* name, int64_t least) {
  STD_TORCH_CHECK(height_width.size() == 2 && height_width[axis] >= least, "internimage::dcnv3: ", name,
                  " must be two integers (height, width), each at least ", least);
  return height_width[axis];
}

// `offset` and `mask` must be walkable; their strides enter the geometry.
inline Geometry geometry_of(const Tensor& input, const Tensor& offset, const Tensor& mask,
                            const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                            const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
                            double offset_scale, bool remove_center, bool softmax) {
  STD_TORCH_CHECK(input.dim() == 4 && offset.dim() == 4 && mask.dim() == 4,
                  "internimage::dcnv3: input, offset and mask must be of the form [N, H, W, channels], got ",
                  input.dim(), ", ", offset.dim(), " and ", mask.dim(), " axes");
  STD_TORCH_CHECK(input.scalar_type() == offset.scalar_type() && input.scalar_type() == mask.scalar_type(),
                  "internimage::dcnv3: input, offset and mask must be of one dtype");
  STD_TORCH_CHECK(input.device() == offset.device() && input.device() == mask.device(),
                  "internimage::dcnv3: input, offset and mask must be on one device");
  STD_TORCH_CHECK(groups > 0 && input.size(3) % groups == 0, "internimage::dcnv3: groups must divide the channels of ",
                  "input, got ", input.size(3), " channels and ", groups, " groups");
  Geometry g{};
  g.n = input.size(0);
  g.h = input.size(1);
  g.w = input.size(2);
  g.out_h = offset.size(1);
  g.out_w = offset.size(2);
  g.groups = groups;
  g.group_channels = input.size(3) / groups;
  g.kernel_h = at(kernel_size, 0, "kernel_size", 1);
  g.kernel_w = at(kernel_size, 1, "kernel_size", 1);
  g.stride_h = at(stride, 0, "stride", 1);
  g.stride_w = at(stride, 1, "stride", 1);
  g.pad_h = at(padding, 0, "padding", 0);
  g.pad_w = at(padding, 1, "padding", 0);
  g.dilation_h = at(dilation, 0, "dilation", 1);
  g.dilation_w = at(dilation, 1, "dilation", 1);
  g.offset_stride = pixel_stride(offset);
  g.mask_stride = pixel_stride(mask);
  g.offset_scale = offset_scale;
  g.remove_center = remove_center;
  g.softmax = softmax;
  const int64_t points = groups * g.taps();
  STD_TORCH_CHECK(offset.size(0) == g.n && offset.size(3) == 2 * points,
                  "internimage::dcnv3: offset must be [", g.n, ", Q, R, ", 2 * points, "], got [", offset.size(0), ", ",
                  offset.size(1), ", ", offset.size(2), ", ", offset.size(3), "]");
  STD_TORCH_CHECK(mask.size(0) == g.n && mask.size(1) == g.out_h && mask.size(2) == g.out_w && mask.size(3) == points,
                  "internimage::dcnv3: mask must be [", g.n, ", ", g.out_h, ", ", g.out_w, ", ", points, "], got [",
                  mask.size(0), ", ", mask.size(1), ", ", mask.size(2), ", ", mask.size(3), "]");
  return g;
}

inline void check_grad_output(const Tensor& grad_output, const Tensor& input, const Geometry& g) {
  STD_TORCH_CHECK(grad_output.scalar_type() == input.scalar_type() && grad_output.device() == input.device() &&
                      grad_output.dim() == 4 && grad_output.size(0) == g.n && grad_output.size(1) == g.out_h &&
                      grad_output.size(2) == g.out_w && grad_output.size(3) == g.channels(),
                  "internimage::dcnv3_backward: grad_output must be [", g.n, ", ", g.out_h, ", ", g.out_w, ", ",
                  g.channels(), "], of the dtype and on the device of input");
}

}  // namespace internimage
