// How kernels on CUDA are launched: the width of their loads, the parts of large outputs. Includes nothing of torch.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_lanes.cuh"

#ifndef INTERNIMAGE_MOST_ITEMS
#define INTERNIMAGE_MOST_ITEMS (1 << 30)  // a test lowers it
#endif

namespace internimage {

constexpr int64_t kMostBlocks = 65535;  // each thread then takes several items
constexpr int64_t kMostBands = 8192;    // as many warps as the largest devices run at once
constexpr double kMostPlaces = 1 << 30; // 32 bits, with room for the last step of a kernel's loop

// A kernel's arguments by value, as the runtime wants them: an array of their addresses.
template <typename... Parameters, std::size_t... kIndex>
cudaError_t launch_with(void (*kernel)(Parameters...), dim3 blocks, std::tuple<std::decay_t<Parameters>...> arguments,
                        std::index_sequence<kIndex...>, cudaStream_t stream) {
  void* addresses[] = {&std::get<kIndex>(arguments)...};
  return cudaLaunchKernel(kernel, blocks, dim3(kThreads), addresses, 0, stream);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t threads, cudaStream_t stream, Arguments... arguments) {
  const int64_t blocks = std::min((threads + kThreads - 1) / kThreads, kMostBlocks);
  return launch_with(kernel, dim3(unsigned(blocks)), {arguments...}, std::index_sequence_for<Parameters...>{}, stream);
}

struct Operand {
  const void* pointer;
  int64_t elements, element_size;

  bool missing() const { return elements > 0 && pointer == nullptr; }
  bool aligned(int64_t lanes) const {
    return reinterpret_cast<uintptr_t>(pointer) % std::min<int64_t>(lanes * element_size, 16) == 0;
  }
};

// Calls body with the greatest number of lanes, at most 16 bytes, that divides the channels of a group and suits the
// alignment.
template <typename T, int kLanes = 16 / sizeof(T), typename Body>
cudaError_t with_lanes(int64_t channels, std::initializer_list<Operand> operands, Body body) {
  if constexpr (kLanes > 1) {
    bool fits = channels % kLanes == 0;
    for (const Operand& operand : operands) fits = fits && operand.aligned(kLanes);
    if (!fits) return with_lanes<T, kLanes / 2>(channels, operands, body);
  }
  return body(std::integral_constant<int, kLanes>{});
}

// Threads that share the channels of a group, kLanes each: a power of two, at most a warp.
inline int64_t team_of(int64_t channels, int64_t lanes) {
  int64_t team = 1;
  while (team < kWarp && team * lanes < channels) team *= 2;
  return team;
}

// Calls body for parts of an output of n images of rows of items, of about INTERNIMAGE_MOST_ITEMS items each, until one
// gives an error.
template <typename Body>
cudaError_t for_each_part(int64_t n, int64_t all_rows, int64_t items_in_row, Body body) {
  const int64_t most_rows = std::max<int64_t>(INTERNIMAGE_MOST_ITEMS / items_in_row, 1);
  const int64_t images = std::max<int64_t>(most_rows / all_rows, 1), rows = std::min(most_rows, all_rows);
  for (int64_t image = 0; image < n; image += images) {
    for (int64_t row = 0; row < all_rows; row += rows) {
      const Part part{image, std::min(images, n - image), row, std::min(rows, all_rows - row)};
      const cudaError_t error = body(part);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// The same for whole images, of which each has some items.
template <typename Body>
cudaError_t for_each_images(int64_t n, int64_t rows, int64_t items_in_image, Body body) {
  const int64_t images = std::max<int64_t>(INTERNIMAGE_MOST_ITEMS / items_in_image, 1);
  for (int64_t image = 0; image < n; image += images) {
    const cudaError_t error = body(Part{image, std::min(images, n - image), 0, rows});
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// Calls body with a value of the type that the number stands for in the launchers' interface.
template <typename Body>
cudaError_t with_dtype(int dtype, Body body) {
  switch (dtype) {
    case 0: return body(float{});
    case 1: return body(__half{});
    case 2: return body(__nv_bfloat16{});
    case 3: return body(double{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace internimage
