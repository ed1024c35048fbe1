// Lets a host compiler build a .cu file as it stands, and runs its kernels thread after thread.
//
// Include it before all else. CUDA's own headers give the types and the arithmetic of the halves. Kernels with
// barriers or shuffles need more than this; those without run here exactly as on a device, in one order of threads.
#pragma once

#define __CUDA_RUNTIME_H__  // cuda_runtime.h would bring the compiler's half of CUDA; its API half is enough
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>

#undef __launch_bounds__
#define __launch_bounds__(...)

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

extern "C" {
inline int shim_last_thread_first = 0;  // the other extreme of the orders in which threads may run
inline int shim_most_blocks = 0;  // a smaller grid than was asked for, where not 0
inline int64_t shim_launches = 0;
}

// As on a device, a word must lie on a multiple of its size.
template <typename T>
T __ldg(const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T)) {
    std::fprintf(stderr, "misaligned load of %zu bytes\n", sizeof(T));
    std::abort();
  }
  return *address;
}

template <typename T>
T atomicAdd(T* address, T value) {
  return std::exchange(*address, *address + value);
}

template <typename... Parameters, std::size_t... kIndex>
void shim_run(void (*kernel)(Parameters...), void** arguments, std::index_sequence<kIndex...>) {
  const int64_t threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t thread = shim_last_thread_first ? threads - 1 - i : i;
    blockIdx.x = unsigned(thread / blockDim.x);
    threadIdx.x = unsigned(thread % blockDim.x);
    kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[kIndex])...);
  }
}

template <typename... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t,
                             cudaStream_t) {
  ++shim_launches;
  if (grid.x == 0 || grid.y != 1 || grid.z != 1 || block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1)
    return cudaErrorInvalidConfiguration;
  gridDim = grid;
  if (shim_most_blocks && gridDim.x > unsigned(shim_most_blocks)) gridDim.x = unsigned(shim_most_blocks);
  blockDim = block;
  shim_run(kernel, arguments, std::index_sequence_for<Parameters...>{});
  return cudaSuccess;
}
