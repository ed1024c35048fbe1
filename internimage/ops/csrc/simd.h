// Vectors of the widest registers that the flags allow, by the compiler's vector extension (GCC, Clang): AVX-512, AVX2,
// NEON or whatever there is. Intrinsics stand only where compilers were seen to miss the instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define INTERNIMAGE_INLINE inline __attribute__((always_inline))

namespace internimage {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

template <typename T, int lanes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(lanes * sizeof(T))));
};
template <typename T, int lanes>
using Vector = typename VectorOf<T, lanes>::Type;

template <typename T>
using WidestVector = Vector<T, kVectorBytes / sizeof(T)>;

template <typename V>
using Lane = std::remove_cvref_t<decltype(V{}[0])>;
template <typename V>
constexpr int kLanes = sizeof(V) / sizeof(Lane<V>);

// Lane i of the result is lane source(i) of a and b; those of b are numbered from kLanes<V> on.
template <auto source, typename V>
INTERNIMAGE_INLINE V shuffle(V a, V b) {
  return [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, source(i)...);
#else
    return __builtin_shuffle(a, b, decltype(a < b){source(i)...});
#endif
  }(std::make_integer_sequence<int, kLanes<V>>{});
}

// AVX2 shuffles two registers only within their halves: there several steps are cheaper than what compilers find.
template <typename V>
constexpr bool kHalves = sizeof(V) == 32 && sizeof(Lane<V>) == 4;

// Lanes 0, 2, 4, ... of a and b (odd = 0), or 1, 3, 5, ... (odd = 1).
template <int odd, typename V>
INTERNIMAGE_INLINE V every_second(V a, V b) {
  if constexpr (kHalves<V>) {
    const V halves = shuffle<[](int i) { return i / 4 * 4 + i % 2 * 2 + odd + i % 4 / 2 * 8; }>(a, b);
    const auto pairs = (Vector<double, 4>)halves;
    return (V)shuffle<[](int i) { return i / 2 + i % 2 * 2; }>(pairs, pairs);
  } else {
    return shuffle<[](int i) { return 2 * i + odd; }>(a, b);
  }
}

// a0, b0, a1, b1, ... from the first half of a and b (half = 0), or from the second (half = 1).
template <int half, typename V>
INTERNIMAGE_INLINE V interleave(V a, V b) {
  return shuffle<[](int i) { return i / 2 + half * kLanes<V> / 2 + i % 2 * kLanes<V>; }>(a, b);
}

// As many vectors as they have lanes: lane i of vector k changes places with lane k of vector i.
template <typename V>
INTERNIMAGE_INLINE void transpose(V (&all)[kLanes<V>]) {
  constexpr int n = kLanes<V>;
  for (int step = 1; step < n; step *= 2) {
    V next[n];
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave<0>(all[i], all[i + n / 2]);
      next[2 * i + 1] = interleave<1>(all[i], all[i + n / 2]);
    }
    for (int i = 0; i < n; ++i) all[i] = next[i];
  }
}

// `interleave` within each block of 16 bytes.
template <int half, typename V>
INTERNIMAGE_INLINE V interleave_blocks(V a, V b) {
  constexpr int n = 16 / sizeof(Lane<V>);
  return shuffle<[](int i) { return i / n * n + i % n / 2 + half * n / 2 + i % 2 * kLanes<V>; }>(a, b);
}

// Of each block of four lanes, the first pair of a and of b (second = 0), or the second pairs.
template <int second, typename V>
INTERNIMAGE_INLINE V pairs(V a, V b) {
  return shuffle<[](int i) { return i / 4 * 4 + i % 2 + second * 2 + i % 4 / 2 * kLanes<V>; }>(a, b);
}

// Four vectors as the columns of a matrix with four numbers a row: a0, b0, c0, d0, a1, b1, ...
template <typename V>
INTERNIMAGE_INLINE void store_columns(V a, V b, V c, V d, Lane<V>* to) {
  constexpr int n = kLanes<V>;
  const auto put = [&](int i, V v) __attribute__((always_inline)) { std::memcpy(to + i * n, &v, sizeof v); };
  if constexpr (kHalves<V>) {
    constexpr auto low = [](int i) { return i % 4 + i / 4 * n; };
    constexpr auto high = [](int i) { return i % 4 + i / 4 * n + 4; };
    const V ab0 = interleave_blocks<0>(a, b), ab1 = interleave_blocks<1>(a, b);
    const V cd0 = interleave_blocks<0>(c, d), cd1 = interleave_blocks<1>(c, d);
    const V rows04 = pairs<0>(ab0, cd0), rows15 = pairs<1>(ab0, cd0);
    const V rows26 = pairs<0>(ab1, cd1), rows37 = pairs<1>(ab1, cd1);
    put(0, shuffle<low>(rows04, rows15)), put(1, shuffle<low>(rows26, rows37));
    put(2, shuffle<high>(rows04, rows15)), put(3, shuffle<high>(rows26, rows37));
  } else {
    constexpr auto low = [](int i) { return i / 4 * 2 + i % 2 + i % 4 / 2 * n; };
    constexpr auto high = [](int i) { return i / 4 * 2 + i % 2 + i % 4 / 2 * n + n / 2; };
    const V ab0 = interleave<0>(a, b), ab1 = interleave<1>(a, b), cd0 = interleave<0>(c, d), cd1 = interleave<1>(c, d);
    put(0, shuffle<low>(ab0, cd0)), put(1, shuffle<high>(ab0, cd0));
    put(2, shuffle<low>(ab1, cd1)), put(3, shuffle<high>(ab1, cd1));
  }
}

// The inverse of store_columns.
template <typename V>
INTERNIMAGE_INLINE void load_columns(const Lane<V>* from, V& a, V& b, V& c, V& d) {
  V rows[4];
#if defined(__AVX__)
  if constexpr (kHalves<V>) {
    for (int i = 0; i < 4; ++i) {  // row i and row i + 4
      const auto* const at = reinterpret_cast<const float*>(from + 4 * i);
      rows[i] = (V)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at)), _mm_loadu_ps(at + 16), 1);
    }
    const V ab0 = interleave_blocks<0>(rows[0], rows[1]), cd0 = interleave_blocks<1>(rows[0], rows[1]);
    const V ab1 = interleave_blocks<0>(rows[2], rows[3]), cd1 = interleave_blocks<1>(rows[2], rows[3]);
    a = pairs<0>(ab0, ab1), b = pairs<1>(ab0, ab1), c = pairs<0>(cd0, cd1), d = pairs<1>(cd0, cd1);
    return;
  }
#endif
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], from + i * kLanes<V>, sizeof(V));
  const V ac0 = every_second<0>(rows[0], rows[1]), bd0 = every_second<1>(rows[0], rows[1]);
  const V ac1 = every_second<0>(rows[2], rows[3]), bd1 = every_second<1>(rows[2], rows[3]);
  a = every_second<0>(ac0, ac1), c = every_second<1>(ac0, ac1);
  b = every_second<0>(bd0, bd1), d = every_second<1>(bd0, bd1);
}

// Four numbers, over and over.
template <typename V>
INTERNIMAGE_INLINE V repeat_four(const Lane<V>* from) {
  constexpr int size = 4 * sizeof(Lane<V>);
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && size == 16) return (V)_mm512_broadcast_f32x4(_mm_loadu_ps(from));
  if constexpr (sizeof(V) == 64 && size == 32) return (V)_mm512_broadcast_f64x4(_mm256_loadu_pd(from));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32 && size == 16) return (V)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from));
#endif
  V v;
  for (size_t i = 0; i < sizeof v; i += size) std::memcpy(reinterpret_cast<char*>(&v) + i, from, size);
  return v;
}

// Number i of those, in all lanes.
template <int i, typename V>
INTERNIMAGE_INLINE V one_of_four(V repeated) {
  return shuffle<[](int k) { return k / 4 * 4 + i; }>(repeated, repeated);
}

// Adds the blocks of 16 bytes of a vector.
template <typename V>
INTERNIMAGE_INLINE auto add_blocks(V a) {
  if constexpr (sizeof(V) == 16) {
    return a;
  } else {
    Vector<Lane<V>, kLanes<V> / 2> low, high;
    std::memcpy(&low, &a, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&a) + sizeof low, sizeof high);
    return add_blocks(low + high);
  }
}

// The sum of all lanes.
template <typename V>
INTERNIMAGE_INLINE Lane<V> sum_of(V a) {
  const auto block = add_blocks(a);
  if constexpr (kLanes<decltype(block)> == 2) {
    return block[0] + block[1];
  } else {
    return (block[0] + block[1]) + (block[2] + block[3]);
  }
}

// 0, 1, 2, ...
template <typename V>
INTERNIMAGE_INLINE V lane_numbers() {
  return []<int... i>(std::integer_sequence<int, i...>) { return V{i...}; }(std::make_integer_sequence<int, kLanes<V>>{});
}

// Whether a bit of a mask is set.
template <typename M>
INTERNIMAGE_INLINE bool any(M mask) {
  int64_t words[sizeof mask / 8], all = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (const int64_t word : words) all |= word;
  return all != 0;
}

// Writes the sums of a, of b, of c and of d, or adds them to what is there.
template <bool add, typename V>
INTERNIMAGE_INLINE void put_sums(V a, V b, V c, V d, Lane<V>* to) {
  const auto put = [](Lane<V>* at, auto sums) __attribute__((always_inline)) {
    if constexpr (add) {
      decltype(sums) before;
      std::memcpy(&before, at, sizeof before);
      sums += before;
    }
    std::memcpy(at, &sums, sizeof sums);
  };
  const V ab = interleave_blocks<0>(a, b) + interleave_blocks<1>(a, b);
  const V cd = interleave_blocks<0>(c, d) + interleave_blocks<1>(c, d);
  if constexpr (sizeof(Lane<V>) == 8) {
    put(to, add_blocks(ab)), put(to + 2, add_blocks(cd));
  } else {
    put(to, add_blocks(pairs<0>(ab, cd) + pairs<1>(ab, cd)));
  }
}

// Keeps a compiler from fusing a product with a sum behind it.
template <typename V>
INTERNIMAGE_INLINE V rounded(V product) {
  asm("" : "+m"(product));
  return product;
}

// a < b ? a : b and a > b ? a : b, lane by lane: b where one of them is NaN.
template <typename V>
INTERNIMAGE_INLINE V smaller(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(Lane<V>) == 4) return (V)_mm512_min_ps((__m512)a, (__m512)b);
  if constexpr (sizeof(V) == 64 && sizeof(Lane<V>) == 8) return (V)_mm512_min_pd((__m512d)a, (__m512d)b);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32 && sizeof(Lane<V>) == 4) return (V)_mm256_min_ps((__m256)a, (__m256)b);
  if constexpr (sizeof(V) == 32 && sizeof(Lane<V>) == 8) return (V)_mm256_min_pd((__m256d)a, (__m256d)b);
#endif
  return a < b ? a : b;
}
template <typename V>
INTERNIMAGE_INLINE V larger(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(Lane<V>) == 4) return (V)_mm512_max_ps((__m512)a, (__m512)b);
  if constexpr (sizeof(V) == 64 && sizeof(Lane<V>) == 8) return (V)_mm512_max_pd((__m512d)a, (__m512d)b);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32 && sizeof(Lane<V>) == 4) return (V)_mm256_max_ps((__m256)a, (__m256)b);
  if constexpr (sizeof(V) == 32 && sizeof(Lane<V>) == 8) return (V)_mm256_max_pd((__m256d)a, (__m256d)b);
#endif
  return a > b ? a : b;
}

// Without the sign.
INTERNIMAGE_INLINE auto absolute(WidestVector<float> x) {
  return (decltype(x))((Vector<int32_t, kLanes<decltype(x)>>)x & 0x7fffffff);
}
INTERNIMAGE_INLINE auto absolute(WidestVector<double> x) {
  return (decltype(x))((Vector<int64_t, kLanes<decltype(x)>>)x & 0x7fffffffffffffff);
}

// Lanes number i to i + n - 1.
template <int n, typename V>
INTERNIMAGE_INLINE auto part(V v, int i) {
  Vector<Lane<V>, n> some;
  std::memcpy(&some, reinterpret_cast<const char*>(&v) + i * sizeof(Lane<V>), sizeof some);
  return some;
}

// 32-bit numbers as 64-bit numbers.
template <int n>
INTERNIMAGE_INLINE Vector<int64_t, n> widen(Vector<int32_t, n> x) {
#if defined(__AVX2__)
  if constexpr (n == 4) return (Vector<int64_t, n>)_mm256_cvtepi32_epi64((__m128i)x);
#endif
  return __builtin_convertvector(x, Vector<int64_t, n>);
}

// For |x| below 2^31.
template <int n>
INTERNIMAGE_INLINE auto floor_lanes(Vector<float, n> x) {
  using V = Vector<float, n>;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return (V)_mm512_floor_ps((__m512)x);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return (V)_mm256_floor_ps((__m256)x);
#endif
  const V toward_zero = __builtin_convertvector(__builtin_convertvector(x, Vector<int32_t, n>), V);
  return toward_zero > x ? toward_zero - 1.0f : toward_zero;
}
INTERNIMAGE_INLINE auto floor_of(WidestVector<float> x) { return floor_lanes<kVectorBytes / 4>(x); }

// e^x to 2 units in the last place, for x from -87 (below: as there) to 87; NaN for NaN.
INTERNIMAGE_INLINE auto exp_of(WidestVector<float> x) {
  using V = decltype(x);
  using Int = Vector<int32_t, kLanes<V>>;
  x = x < V{} - 87.0f ? V{} - 87.0f : x;
  const V power_of_2 = floor_of(x * 1.44269504088896341f + 0.5f);
  const V r = x - power_of_2 * 0.693359375f + power_of_2 * 2.12194440e-4f;  // ln 2 in two parts
  V p = V{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Int exponent = (__builtin_convertvector(power_of_2, Int) + 127) << 23;
  return p * (V)exponent;
}
INTERNIMAGE_INLINE auto exp_of(WidestVector<double> x) {
  for (int i = 0; i < kLanes<decltype(x)>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// Loads and stores of a vector; halves convert to and from float32.
template <typename V, typename T>
INTERNIMAGE_INLINE V load(const T* from) {
  V v;
  if constexpr (sizeof(T) == sizeof(Lane<V>)) {
    std::memcpy(&v, from, sizeof v);
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    Vector<uint16_t, kLanes<V>> bits;
    std::memcpy(&bits, from, sizeof bits);
    v = (V)(__builtin_convertvector(bits, Vector<uint32_t, kLanes<V>>) << 16);
  } else {
#if defined(__AVX512F__)
    if constexpr (sizeof v == 64) return (V)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
#if defined(__F16C__)
    if constexpr (sizeof v == 32) return (V)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
    for (int i = 0; i < kLanes<V>; ++i) v[i] = float(from[i]);
  }
  return v;
}
template <typename V, typename T>
INTERNIMAGE_INLINE void store(T* to, V v) {
  if constexpr (sizeof(T) == sizeof(Lane<V>)) {
    std::memcpy(to, &v, sizeof v);
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    using Bits = Vector<uint32_t, kLanes<V>>;
    const Bits bits = (Bits)v;
    const Bits rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;  // to nearest, ties to even
    const auto half = __builtin_convertvector(v == v ? rounded : Bits{} + 0x7fc0u, Vector<uint16_t, kLanes<V>>);
    std::memcpy(to, &half, sizeof half);
  } else {
#if defined(__AVX512F__)
    if constexpr (sizeof v == 64) {
      const __m256i half = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
      return (void)std::memcpy(to, &half, sizeof half);
    }
#endif
#if defined(__F16C__)
    if constexpr (sizeof v == 32) {
      const __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
      return (void)std::memcpy(to, &half, sizeof half);
    }
#endif
    for (int i = 0; i < kLanes<V>; ++i) to[i] = c10::Half(v[i]);
  }
}

// Loads a0, b0, a1, b1, ... into a and b.
template <typename V, typename T>
INTERNIMAGE_INLINE void load_pairs(const T* from, V& a, V& b) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    Vector<uint32_t, kLanes<V>> both;
    std::memcpy(&both, from, sizeof both);
    a = (V)(both << 16), b = (V)(both & 0xffff0000u);
    return;
  }
#if defined(__AVX__)
  if constexpr (kHalves<V> && sizeof(T) == 4) {
    const auto* const at = reinterpret_cast<const float*>(from);
    const auto two = [&](int i) __attribute__((always_inline)) {
      return (V)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at + i)), _mm_loadu_ps(at + i + 8), 1);
    };
    const V low = two(0), high = two(4);
    constexpr auto even = [](int i) { return i / 4 * 4 + i % 2 * 2 + i % 4 / 2 * 8; };
    constexpr auto odd = [](int i) { return i / 4 * 4 + i % 2 * 2 + 1 + i % 4 / 2 * 8; };
    a = shuffle<even>(low, high), b = shuffle<odd>(low, high);
    return;
  }
#endif
  const V low = load<V>(from), high = load<V>(from + kLanes<V>);
  a = every_second<0>(low, high), b = every_second<1>(low, high);
}

}  // namespace internimage
