// What the operators on CUDA need to call a launcher: its number for a dtype, the stream, what an error means.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

namespace internimage {

using torch::stable::Tensor;

inline int launcher_dtype(const Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float: return 0;
    case ScalarType::Half: return 1;
    case ScalarType::BFloat16: return 2;
    case ScalarType::Double: return 3;
    default: STD_TORCH_CHECK(false, "internimage: dtype must be float32, float64, float16 or bfloat16");
  }
}

inline void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

// Throws where a launcher gave an error; `limits` says what it refuses as an invalid value.
inline void check_launch(int error, const char* limits) {
  STD_TORCH_CHECK(error != cudaErrorInvalidValue, limits, "; beyond these use internimage.ops.use_backend(\"torch\")");
  STD_CUDA_CHECK(static_cast<cudaError_t>(error));
}

}  // namespace internimage
