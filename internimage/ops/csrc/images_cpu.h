// Tensors as the kernels on the CPU take them: pointers by dtype, and the images that channels_cpu.h samples.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>

#include "channels_cpu.h"

namespace internimage {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGroupsPerTask = 256;

// Calls f with a value of the type that dtype stands for.
template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(c10::Half{});
    case ScalarType::BFloat16: return f(c10::BFloat16{});
    default: STD_TORCH_CHECK(false, "internimage: dtype must be float32, float64, float16 or bfloat16");
  }
}

template <typename T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <typename T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// The dtype in which tensors of the given one are computed.
inline ScalarType real_dtype(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

// Refuses images too large for the kernels: of `groups` groups of `channels` each, over all their pixels.
inline void check_image(ScalarType dtype, int64_t groups, int64_t channels) {
  const int64_t places =
      dtype == ScalarType::Double ? places_of<double>(groups, channels) : places_of<float>(groups, channels);
  STD_TORCH_CHECK(places <= std::numeric_limits<int32_t>::max(), "internimage: an image takes at most 16 GiB, got ",
                  groups, " groups of ", channels, " channels over all its pixels; cut it into tiles");
}

// A contiguous tensor of `groups` groups of `channels` each as the kernels sample it: itself, or a copy.
template <typename T>
Tensor image_of(const Tensor& x, int64_t groups, int64_t channels) {
  if (is_image<T>(channels)) return x;
  const Tensor image =
      torch::stable::new_empty(x, {groups, padded_channels<Real<T>>(channels)}, real_dtype(x.scalar_type()));
  torch::stable::parallel_for(0, groups, kGroupsPerTask, [&](int64_t begin, int64_t end) {
    pack(channels, data<T>(x), mutable_data<Real<T>>(image), begin, end);
  });
  return image;
}

// Zeros of an image's form, for its gradient. What a point touches in both must not compete for the same sets of the
// first cache, which repeat with every page: so the gradient begins elsewhere in its page, by an amount of which few
// distances between pixels are multiples. A blob and no view: operators' results begin where their storage does.
template <typename R>
Tensor zero_gradient(const Tensor& image) {
  constexpr int64_t kPageBytes = 4096, kLineBytes = 64, kFartherBytes = 1600;
  const Tensor room = torch::stable::new_zeros(image, {image.numel() + kPageBytes / int64_t(sizeof(R))});
  const uint64_t farther = bytes_between(data<R>(room), data<R>(image)) + kFartherBytes;
  R* const first = mutable_data<R>(room) + farther % kPageBytes / kLineBytes * kLineBytes / sizeof(R);
  return torch::stable::from_blob(first, image.sizes(), image.strides(), image.device(), image.scalar_type(),
                                  [room](void*) {});
}

// The inverse of `image_of`: a tensor of the form of x.
template <typename T>
Tensor from_image(const Tensor& image, const Tensor& x, int64_t groups, int64_t channels) {
  if (is_image<T>(channels)) return image;
  const Tensor result = torch::stable::new_empty(x, x.sizes());
  torch::stable::parallel_for(0, groups, kGroupsPerTask, [&](int64_t begin, int64_t end) {
    unpack(channels, data<Real<T>>(image), mutable_data<T>(result), begin, end);
  });
  return result;
}

}  // namespace internimage
