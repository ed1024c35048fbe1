// Vectors of 32 bytes by the compiler's vector extension (GCC, Clang): AVX2, NEON or whatever the flags allow.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define INTERNIMAGE_INLINE inline __attribute__((always_inline))

namespace internimage {

typedef float float8 __attribute__((vector_size(32)));
typedef double double4 __attribute__((vector_size(32)));
typedef int32_t int8x32 __attribute__((vector_size(32)));
typedef int32_t int4x32 __attribute__((vector_size(16)));
typedef int64_t int4x64 __attribute__((vector_size(32)));
typedef uint16_t ushort8 __attribute__((vector_size(16)));
typedef uint32_t uint8x32 __attribute__((vector_size(32)));

// GCC before 12 has no __builtin_shufflevector.
#if defined(__clang__) || __GNUC__ >= 12
#define INTERNIMAGE_SHUFFLE(index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTERNIMAGE_SHUFFLE(index, a, b, ...) __builtin_shuffle(a, b, index{__VA_ARGS__})
#endif

template <typename Real>
struct Simd;

template <>
struct Simd<float> {
  using Vector = float8;
  using Int = int8x32;   // as many lanes, 32 bits each
  using Mask = int8x32;  // of a comparison
  static constexpr int lanes = 8;

  static INTERNIMAGE_INLINE Vector even(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  }
  static INTERNIMAGE_INLINE Vector odd(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  }
  static INTERNIMAGE_INLINE Vector interleave_low(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  }
  static INTERNIMAGE_INLINE Vector interleave_high(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
  // Sums of the lanes of a, b, c and d.
  static INTERNIMAGE_INLINE void sums(Vector a, Vector b, Vector c, Vector d, float* out) {
    // Within each half of 128 bits: pairs, then quadruples, then the halves together.
    const Vector ab = INTERNIMAGE_SHUFFLE(Mask, a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
                      INTERNIMAGE_SHUFFLE(Mask, a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    const Vector cd = INTERNIMAGE_SHUFFLE(Mask, c, d, 0, 8, 1, 9, 4, 12, 5, 13) +
                      INTERNIMAGE_SHUFFLE(Mask, c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    const Vector sum = INTERNIMAGE_SHUFFLE(Mask, ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                       INTERNIMAGE_SHUFFLE(Mask, ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    typedef float float4 __attribute__((vector_size(16)));
    float4 low, high;
    std::memcpy(&low, &sum, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&sum) + sizeof low, sizeof high);
    low += high;
    std::memcpy(out, &low, sizeof low);
  }
};

template <>
struct Simd<double> {
  using Vector = double4;
  using Int = int4x32;
  using Mask = int4x64;
  static constexpr int lanes = 4;

  static INTERNIMAGE_INLINE Vector even(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 0, 2, 4, 6);
  }
  static INTERNIMAGE_INLINE Vector odd(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 1, 3, 5, 7);
  }
  static INTERNIMAGE_INLINE Vector interleave_low(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 0, 4, 1, 5);
  }
  static INTERNIMAGE_INLINE Vector interleave_high(Vector a, Vector b) {
    return INTERNIMAGE_SHUFFLE(Mask, a, b, 2, 6, 3, 7);
  }
  static INTERNIMAGE_INLINE void sums(Vector a, Vector b, Vector c, Vector d, double* out) {
    const Vector ab = INTERNIMAGE_SHUFFLE(Mask, a, b, 0, 4, 2, 6) +
                      INTERNIMAGE_SHUFFLE(Mask, a, b, 1, 5, 3, 7);
    const Vector cd = INTERNIMAGE_SHUFFLE(Mask, c, d, 0, 4, 2, 6) +
                      INTERNIMAGE_SHUFFLE(Mask, c, d, 1, 5, 3, 7);
    const Vector sum = INTERNIMAGE_SHUFFLE(Mask, ab, cd, 0, 1, 4, 5) +
                       INTERNIMAGE_SHUFFLE(Mask, ab, cd, 2, 3, 6, 7);
    std::memcpy(out, &sum, sizeof sum);
  }
};

// For |x| below 2^31, which sampling points in an image are.
INTERNIMAGE_INLINE float8 floor_of(float8 x) {
  const float8 toward_zero = __builtin_convertvector(__builtin_convertvector(x, int8x32), float8);
  return toward_zero > x ? toward_zero - 1.0f : toward_zero;
}
INTERNIMAGE_INLINE double4 floor_of(double4 x) {
  const double4 toward_zero = __builtin_convertvector(__builtin_convertvector(x, int4x32), double4);
  return toward_zero > x ? toward_zero - 1.0 : toward_zero;
}

// e^x to 2 units in the last place, 0 below -87 (where float32 turns subnormal), NaN for NaN; x is at most 0 here.
INTERNIMAGE_INLINE float8 exp_of(float8 x) {
  const float8 zero{};
  const float8 clamped = x < zero - 87.0f ? zero - 87.0f : x;
  const float8 scaled = clamped * 1.44269504088896341f;
  const float8 n = floor_of((scaled == scaled ? scaled : zero) + 0.5f);
  const float8 r = clamped - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
  float8 p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int8x32 exponent = (__builtin_convertvector(n, int8x32) + 127) << 23;
  float8 power;
  std::memcpy(&power, &exponent, sizeof power);
  return x < zero - 87.0f ? zero : p * power;
}
INTERNIMAGE_INLINE double4 exp_of(double4 x) {
  return double4{std::exp(x[0]), std::exp(x[1]), std::exp(x[2]), std::exp(x[3])};
}

// Loads and stores of a full vector, and of the first `count` lanes; halves convert to and from float32.
template <typename Vector, typename T>
INTERNIMAGE_INLINE Vector load(const T* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename Vector, typename T>
INTERNIMAGE_INLINE void store(T* to, Vector v) {
  std::memcpy(to, &v, sizeof v);
}

template <>
INTERNIMAGE_INLINE float8 load<float8, c10::BFloat16>(const c10::BFloat16* from) {
  ushort8 bits;
  std::memcpy(&bits, from, sizeof bits);
  const uint8x32 wide = __builtin_convertvector(bits, uint8x32) << 16;
  float8 v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
}
template <>
INTERNIMAGE_INLINE void store<float8, c10::BFloat16>(c10::BFloat16* to, float8 v) {
  uint8x32 bits;
  std::memcpy(&bits, &v, sizeof bits);
  const uint8x32 rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;  // to nearest, ties to even
  const uint8x32 quiet_nan = (uint8x32{} + 0x7fc0u);
  const ushort8 half = __builtin_convertvector(v == v ? rounded : quiet_nan, ushort8);
  std::memcpy(to, &half, sizeof half);
}
#if defined(__F16C__)
template <>
INTERNIMAGE_INLINE float8 load<float8, c10::Half>(const c10::Half* from) {
  return float8(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
template <>
INTERNIMAGE_INLINE void store<float8, c10::Half>(c10::Half* to, float8 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT));
}
#else
template <>
INTERNIMAGE_INLINE float8 load<float8, c10::Half>(const c10::Half* from) {
  float8 v;
  for (int i = 0; i < 8; ++i) v[i] = float(from[i]);
  return v;
}
template <>
INTERNIMAGE_INLINE void store<float8, c10::Half>(c10::Half* to, float8 v) {
  for (int i = 0; i < 8; ++i) to[i] = c10::Half(v[i]);
}
#endif

}  // namespace internimage
