// Launches the kernels of ms_deform_attn.cuh. Includes nothing of torch, so that nvcc takes seconds.
#include "ms_deform_attn_launchers.h"

#include <algorithm>
#include <initializer_list>

#include "cuda_launch.cuh"
#include "ms_deform_attn.cuh"

namespace internimage {
namespace {

// Whether 32 bits number every pixel of an image, the points of one of its heads, and what is in a row of the output.
bool fits_32_bits(const Attention& a) {
  const double most = std::max({
      double(a.pixels),
      double(a.queries) * double(a.points),
      double(a.heads) * double(std::max<int64_t>(a.head_channels, kWarp)),
      double(a.levels) * double(a.points),
  });
  return most <= kMostPlaces;
}

// Whether the points of a level may be taken two at a time: their places as words of 16 bytes, their weights as one word.
bool in_pairs(const Attention& a, std::initializer_list<Operand> places, std::initializer_list<Operand> weights) {
  bool fits = a.points % 2 == 0;
  for (const Operand& operand : places) fits = fits && operand.aligned(4);
  for (const Operand& operand : weights) fits = fits && operand.aligned(2);
  return fits;
}

template <typename T>
cudaError_t launch_ms_deform_attn_forward(const Attention& a, const void* value, const void* locations,
                                          const void* weights, void* output, cudaStream_t stream) {
  if (a.n * a.queries * a.channels() == 0) return cudaSuccess;
  const Operand values{value, a.pixels, sizeof(T)}, outputs{output, 1, sizeof(T)};
  const Operand places{locations, a.samples(), sizeof(Real<T>)}, shares{weights, a.samples(), sizeof(T)};
  for (const Operand& operand : {values, outputs, places, shares})
    if (operand.missing()) return cudaErrorInvalidValue;
  if (a.levels > kMostLevels || !fits_32_bits(a)) return cudaErrorInvalidValue;
  return with_lanes<T>(a.head_channels, {values, outputs}, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    auto kernel = ms_deform_attn_forward<T, kLanes, 1>;
    if constexpr (kLanes * sizeof(T) == 16)
      if (in_pairs(a, {places}, {shares})) kernel = ms_deform_attn_forward<T, kLanes, 2>;
    const int64_t team = a.head_channels / kLanes, items_in_row = a.heads * team;
    return for_each_part(a.n, a.queries, items_in_row, [&](const Part& part) {
      const int64_t work = part.images * part.rows * items_in_row;
      return launch(kernel, work, stream, AttentionLayout(a, part, work, team), static_cast<const T*>(value),
                    static_cast<const Real<T>*>(locations), static_cast<const T*>(weights), static_cast<T*>(output));
    });
  });
}

template <typename T>
cudaError_t launch_ms_deform_attn_backward(const Attention& a, const void* grad_output, const void* value,
                                           const void* locations, const void* weights, void* grad_value,
                                           void* grad_locations, void* grad_weights, bool deterministic,
                                           cudaStream_t stream) {
  if (a.n * a.queries * a.heads * a.samples() == 0) return cudaSuccess;
  const int64_t elements = a.n * a.pixels * a.channels();
  const Operand grad_outputs{grad_output, a.channels(), sizeof(T)}, values{value, elements, sizeof(T)};
  const Operand places{locations, 1, sizeof(Real<T>)}, shares{weights, 1, sizeof(T)};
  const Operand grad_values{grad_value, elements, sizeof(Real<T>)};
  const Operand grad_places{grad_locations, 1, sizeof(Real<T>)}, grad_shares{grad_weights, 1, sizeof(T)};
  for (const Operand& operand : {grad_outputs, values, places, shares, grad_values, grad_places, grad_shares})
    if (operand.missing()) return cudaErrorInvalidValue;
  if (a.levels > kMostLevels || !fits_32_bits(a)) return cudaErrorInvalidValue;
  const cudaError_t error = with_lanes<T>(a.head_channels, {grad_outputs, values, grad_values}, [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    auto kernel = ms_deform_attn_backward<T, kLanes, 1>;
    if constexpr (kLanes * sizeof(T) == 16)
      if (in_pairs(a, {places, grad_places}, {shares, grad_shares})) kernel = ms_deform_attn_backward<T, kLanes, 2>;
    const int64_t team = team_of(a.head_channels, kLanes), items_in_row = a.heads * team;
    return for_each_part(a.n, a.queries, items_in_row, [&](const Part& part) {
      const int64_t work = part.images * part.rows * items_in_row;
      return launch(kernel, work, stream, AttentionLayout(a, part, work, team), static_cast<const T*>(grad_output),
                    static_cast<const T*>(value), static_cast<const Real<T>*>(locations),
                    static_cast<const T*>(weights), static_cast<Real<T>*>(deterministic ? nullptr : grad_value),
                    static_cast<Real<T>*>(grad_locations), static_cast<T*>(grad_weights));
    });
  });
  if (error != cudaSuccess || !deterministic || elements == 0) return error;
  const int64_t most = kMostBands / kWarps / (a.n * a.heads);
  const int64_t bands = std::clamp<int64_t>(most, 1, (a.pixels + kWarps - 1) / kWarps) * kWarps;
  return for_each_images(a.n, a.queries, a.heads * bands * kWarp, [&](const Part& part) {
    const int64_t work = part.images * a.heads * bands;
    return launch(ms_deform_attn_backward_value_in_order<T>, work * kWarp, stream,
                  AttentionLayout(a, part, work, 1, bands), static_cast<const T*>(grad_output),
                  static_cast<const Real<T>*>(locations), static_cast<const T*>(weights),
                  static_cast<Real<T>*>(grad_value));
  });
}

}  // namespace
}  // namespace internimage

extern "C" int internimage_ms_deform_attn_forward_cuda(
    int dtype, const void* value, const void* locations, const void* weights, void* output,
    int64_t n, int64_t pixels, int64_t heads, int64_t head_channels, int64_t queries, int64_t levels, int64_t points,
    const int64_t* shapes, void* stream) {
  const internimage::Attention a{n, pixels, heads, head_channels, queries, levels, points, shapes};
  return internimage::with_dtype(dtype, [&](auto example) {
    using T = decltype(example);
    return internimage::launch_ms_deform_attn_forward<T>(a, value, locations, weights, output,
                                                         static_cast<cudaStream_t>(stream));
  });
}

extern "C" int internimage_ms_deform_attn_backward_cuda(
    int dtype, const void* grad_output, const void* value, const void* locations, const void* weights,
    void* grad_value, void* grad_locations, void* grad_weights,
    int64_t n, int64_t pixels, int64_t heads, int64_t head_channels, int64_t queries, int64_t levels, int64_t points,
    const int64_t* shapes, int deterministic, void* stream) {
  const internimage::Attention a{n, pixels, heads, head_channels, queries, levels, points, shapes};
  return internimage::with_dtype(dtype, [&](auto example) {
    using T = decltype(example);
    return internimage::launch_ms_deform_attn_backward<T>(a, grad_output, value, locations, weights, grad_value,
                                                          grad_locations, grad_weights, deterministic != 0,
                                                          static_cast<cudaStream_t>(stream));
  });
}
