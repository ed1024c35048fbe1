// What kernels on CUDA share: numbers of every type as float32 or float64, neighbouring elements as one word, vector
// atomics, sums over neighbouring threads, quick division, the parts of an output. Includes nothing of torch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

// From compute capability 9.0 on, float2 and float4 are added in one atomic operation.
#ifndef INTERNIMAGE_VECTOR_ATOMICS
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define INTERNIMAGE_VECTOR_ATOMICS 1
#else
#define INTERNIMAGE_VECTOR_ATOMICS 0
#endif
#endif

namespace internimage {

constexpr int kThreads = 256;  // a block
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;  // a block
constexpr unsigned kAllLanes = 0xffffffff;

// The type in which T is computed, and the conversions by name: torch compiles with the operators of the halves off.
template <typename T> struct RealOf { using type = float; };
template <> struct RealOf<double> { using type = double; };
template <typename T> using Real = typename RealOf<T>::type;

__device__ __forceinline__ float to_real(float x) { return x; }
__device__ __forceinline__ double to_real(double x) { return x; }
__device__ __forceinline__ float to_real(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_real(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void from_real(float x, float& out) { out = x; }
__device__ __forceinline__ void from_real(double x, double& out) { out = x; }
__device__ __forceinline__ void from_real(float x, __half& out) { out = __float2half_rn(x); }
__device__ __forceinline__ void from_real(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float max_of(float x, float y) { return fmaxf(x, y); }
__device__ __forceinline__ double max_of(double x, double y) { return fmax(x, y); }

// 1 / x for a sum of a softmax: from 1 to the number of taps, or NaN. An exact division would call a subroutine.
__device__ __forceinline__ float reciprocal_of(float x) { return __fdividef(1.0f, x); }
__device__ __forceinline__ double reciprocal_of(double x) {
  double result = reciprocal_of(float(x));
#pragma unroll
  for (int step = 0; step < 3; ++step) result = fma(result, fma(-x, result, 1.0), result);  // Newton: doubles the digits
  return result;
}

// kLanes neighbouring elements move as one word of 2 to 16 bytes, to which they must be aligned.
template <int kBytes> struct WordOf;
template <> struct WordOf<2> { using type = unsigned short; };
template <> struct WordOf<4> { using type = unsigned int; };
template <> struct WordOf<8> { using type = uint2; };
template <> struct WordOf<16> { using type = uint4; };

template <typename T, int kLanes>
__device__ __forceinline__ void load(const T* from, Real<T> (&to)[kLanes]) {
  using Word = typename WordOf<kLanes * sizeof(T)>::type;
  const Word word = __ldg(reinterpret_cast<const Word*>(from));
  T lanes[kLanes];
  memcpy(static_cast<void*>(lanes), &word, sizeof(word));
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = to_real(lanes[lane]);
}

template <typename T, int kLanes>
__device__ __forceinline__ void store(const Real<T> (&from)[kLanes], T* to) {
  using Word = typename WordOf<kLanes * sizeof(T)>::type;
  T lanes[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) from_real(from[lane], lanes[lane]);
  Word word;
  memcpy(&word, static_cast<const void*>(lanes), sizeof(word));
  *reinterpret_cast<Word*>(to) = word;
}

template <int kLanes, typename Real>
__device__ __forceinline__ void add_atomically(const Real (&values)[kLanes], Real* to) {
  constexpr int kStep = !INTERNIMAGE_VECTOR_ATOMICS || sizeof(Real) != 4 ? 1 : kLanes < 4 ? kLanes : 4;
#pragma unroll
  for (int lane = 0; lane < kLanes; lane += kStep) {
    const Real* const from = values + lane;
#if INTERNIMAGE_VECTOR_ATOMICS
    if constexpr (kStep == 4)
      atomicAdd(reinterpret_cast<float4*>(to + lane), make_float4(from[0], from[1], from[2], from[3]));
    else if constexpr (kStep == 2)
      atomicAdd(reinterpret_cast<float2*>(to + lane), make_float2(from[0], from[1]));
    else
#endif
      atomicAdd(to + lane, *from);
  }
}

// Divides 0 <= x < 2^31 by a number that the host knows: a multiplication and a shift.
struct Divisor {
  uint32_t value, magic, shift = 0;

  explicit Divisor(int64_t divisor) : value(uint32_t(divisor > 0 ? divisor : 1)) {
    while ((uint64_t(1) << shift) < value) ++shift;
    magic = uint32_t((uint64_t(1) << 32) * ((uint64_t(1) << shift) - value) / value + 1);
  }

  struct Parts { int quotient, remainder; };
  __device__ __forceinline__ Parts operator()(int x) const {
    const uint32_t quotient = (__umulhi(uint32_t(x), magic) + uint32_t(x)) >> shift;
    return {int(quotient), int(uint32_t(x) - quotient * value)};
  }
};

// What one launch covers: whole images of the output, or rows of a single one.
struct Part {
  int64_t first_image, images, first_row, rows;
};

// Sums each value over a team: a power of two of neighbouring lanes. All lanes of the warp must call it.
template <typename... Values>
__device__ __forceinline__ void sum_over_team(int team, Values&... values) {
#pragma unroll 1
  for (int step = 1; step < team; step *= 2) ((values += __shfl_xor_sync(kAllLanes, values, step)), ...);
}
template <int kCount, typename Real>
__device__ __forceinline__ void sum_over_team(int team, Real (&values)[kCount]) {
#pragma unroll 1
  for (int step = 1; step < team; step *= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += __shfl_xor_sync(kAllLanes, values[i], step);
  }
}

}  // namespace internimage
