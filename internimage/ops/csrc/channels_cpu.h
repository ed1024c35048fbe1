// The channels of groups on the CPU, which are contiguous: images of them, and what gathers from and scatters to an image
// at the points of points_cpu.h. Knows nothing of operators, tensors and threads. docs/operator.md explains how and why.
#pragma once

#include <algorithm>
#include <cstdint>

#include "points_cpu.h"

namespace internimage {

// Images are sampled in arithmetic type, with the channels of each group filled up to whole vectors of 32 bytes.
template <typename R>
int64_t padded_channels(int64_t channels) {
  constexpr int64_t unit = 32 / int64_t(sizeof(R));
  return (channels + unit - 1) / unit * unit;
}

// Places from an image's first group to its end; the kernels need them below 2^31.
template <typename R>
int64_t places_of(int64_t groups, int64_t channels) {
  return groups * padded_channels<R>(channels) * int64_t(sizeof(R)) / kPlaceBytes;
}

// Whether a tensor can be sampled as it is; else `pack` makes an image of it.
template <typename T>
bool is_image(int64_t channels) {
  return std::is_same_v<T, Real<T>> && channels == padded_channels<Real<T>>(channels);
}

// `vectors` vectors of channels of which `count` exist, the others zero, times `scale`. Where less than `room` lets whole
// vectors be loaded, only what exists is.
template <typename V, int vectors, typename T>
INTERNIMAGE_INLINE void load_scaled(const T* from, int64_t count, int64_t room, Lane<V> scale, V (&to)[vectors]) {
  constexpr int lanes = kLanes<V>;
  if (count >= vectors * lanes) {
    for (int v = 0; v < vectors; ++v) to[v] = load<V>(from + v * lanes) * scale;
  } else if (room >= vectors * lanes) {
    const V channels = V{} + Lane<V>(count);
    for (int v = 0; v < vectors; ++v) {
      const V exists = lane_numbers<V>() + Lane<V>(v * lanes);
      to[v] = exists < channels ? load<V>(from + v * lanes) * scale : V{};
    }
  } else {
    Lane<V> all[vectors * lanes] = {};
    for (int64_t c = 0; c < count; ++c) all[c] = Lane<V>(from[c]);
    for (int v = 0; v < vectors; ++v) to[v] = load<V>(all + v * lanes) * scale;
  }
}

// Stores vectors of which `count` channels exist. Where `room` lets whole vectors be stored they are: what follows must
// be written later.
template <typename V, int vectors, typename T>
INTERNIMAGE_INLINE void store_some(const V (&from)[vectors], T* to, int64_t count, int64_t room) {
  constexpr int lanes = kLanes<V>;
  if (room >= vectors * lanes) {
    for (int v = 0; v < vectors; ++v) store(to + v * lanes, from[v]);
  } else {
    Lane<V> all[vectors * lanes];
    for (int v = 0; v < vectors; ++v) store(all + v * lanes, from[v]);
    std::copy_n(all, std::min<int64_t>(count, vectors * lanes), to);
  }
}

// Copies the groups [begin, end), numbered over all pixels, of a tensor with `channels` a group into an image.
template <typename T>
void pack(int64_t channels, const T* from, Real<T>* to, int64_t begin, int64_t end) {
  using V = Vector<Real<T>, 32 / sizeof(Real<T>)>;
  const int64_t padded = padded_channels<Real<T>>(channels);
  for (int64_t group = begin; group < end; ++group) {
    const T* const source = from + group * channels;
    Real<T>* const target = to + group * padded;
    for (int64_t c = 0; c < padded; c += kLanes<V>) {
      V all[1];
      load_scaled(source + c, channels - c, (end - group) * channels - c, Real<T>(1), all);
      store(target + c, all[0]);
    }
  }
}

// The inverse.
template <typename T>
void unpack(int64_t channels, const Real<T>* from, T* to, int64_t begin, int64_t end) {
  using V = Vector<Real<T>, 32 / sizeof(Real<T>)>;
  const int64_t padded = padded_channels<Real<T>>(channels);
  for (int64_t group = begin; group < end; ++group) {
    for (int64_t c = 0; c < padded; c += kLanes<V>) {
      const V all[1] = {load<V>(from + group * padded + c)};
      store_some(all, to + group * channels + c, channels - c, (end - group) * channels - c);
    }
  }
}

// Cuts the channels of a group into runs of vectors of at most `bytes`: calls f(vector, vectors in the run, first).
template <int bytes, typename R, typename F>
INTERNIMAGE_INLINE void for_runs(int64_t padded, const F& f) {
  using Wide = Vector<R, bytes / sizeof(R)>;
  using Narrow = Vector<R, 32 / sizeof(R)>;
  constexpr int lanes = kLanes<Wide>;
  int64_t c = 0;
  for (; c + 4 * lanes <= padded; c += 4 * lanes) f(Wide{}, std::integral_constant<int, 4>{}, c);
  if (c + 2 * lanes <= padded) f(Wide{}, std::integral_constant<int, 2>{}, c), c += 2 * lanes;
  if (c + lanes <= padded) f(Wide{}, std::integral_constant<int, 1>{}, c), c += lanes;
  if constexpr (bytes > 32) {
    if (c < padded) f(Narrow{}, std::integral_constant<int, 1>{}, c);
  }
}

// Up to where a run of channels from number c on may be stored without regard to what follows, of which `left` elements
// are: the next group writes over it, but only if nobody has written there in an earlier run.
inline int64_t room(int64_t c, int64_t count, int64_t left) { return c == 0 ? left : count - c; }

// Calls f with the constants 0 to 3: the upper left, upper right, lower left and lower right neighbour.
template <typename F>
INTERNIMAGE_INLINE void for_neighbours(const F& f) {
  f(std::integral_constant<int, 0>{}), f(std::integral_constant<int, 1>{});
  f(std::integral_constant<int, 2>{}), f(std::integral_constant<int, 3>{});
}

// Hides from a compiler where a pointer comes from: else it keeps the address of each element in memory of its own.
template <typename T>
INTERNIMAGE_INLINE void hide(T*& pointer) {
  asm("" : "+r"(pointer));
}

// Sums `vectors` vectors of channels over the taps of a group, `number` in each of `maps` maps, and stores them. Where
// less than `room` lets whole vectors be stored, the first `count` channels alone. `fixed`: number, so that a compiler
// can unroll the loop, or 0.
template <typename V, int vectors, int fixed, typename T>
INTERNIMAGE_INLINE void gather(Taps<Lane<V>> taps, int64_t number, const Corners* corners, int64_t maps,
                               const Lane<V>* image, T* output, int64_t count, int64_t room) {
  constexpr int lanes = kLanes<V>;
  constexpr int chains = vectors <= 2 ? 4 : 2;  // independent sums, for the latency of an addition
  if (fixed) number = fixed;
  V sum[chains][vectors] = {};
  for (int64_t map = 0; map < maps; ++map, taps = taps.from(number)) {
    hide(taps.place), hide(taps.weights);
    uintptr_t from[4];
    for (int i = 0; i < 4; ++i) from[i] = reinterpret_cast<uintptr_t>(image) + corners[map].at[i];
    const auto at = [&](int i, int64_t place) __attribute__((always_inline)) {
      return reinterpret_cast<const Lane<V>*>(from[i] + place);
    };
#pragma GCC unroll 9
    for (int64_t t = 0; t < number; ++t) {
      const int64_t place = taps.place[t];
      const V weights = repeat_four<V>(taps.weights + 4 * t);
      for_neighbours([&](auto i) __attribute__((always_inline)) {
        const V weight = one_of_four<i>(weights);
        for (int v = 0; v < vectors; ++v) sum[i % chains][v] += weight * load<V>(at(i, place) + v * lanes);
      });
    }
  }
  for (int i = 1; i < chains; ++i) {
    for (int v = 0; v < vectors; ++v) sum[0][v] += sum[i][v];
  }
  for (int v = 0; v < vectors; ++v) sum[0][v] *= taps.scale;
  store_some(sum[0], output, count, room);
}

// Adds grad x weight to the gradient of each neighbour, and takes the dot product of grad with each neighbour; added to
// what there is if `add_dots`. `to_grad`: bytes from the image to its gradient. The others: as above.
template <bool add_dots, int fixed, typename V, int vectors>
INTERNIMAGE_INLINE void scatter(Taps<Lane<V>> taps, int64_t number, const Corners* corners, int64_t maps,
                                const Lane<V>* image, int64_t to_grad, const V (&grad)[vectors]) {
  using R = Lane<V>;
  constexpr int lanes = kLanes<V>;
  if (fixed) number = fixed;
  for (int64_t map = 0; map < maps; ++map, taps = taps.from(number)) {
    hide(taps.place), hide(taps.weights), hide(taps.dots);
    uintptr_t from[4];
    for (int i = 0; i < 4; ++i) from[i] = reinterpret_cast<uintptr_t>(image) + corners[map].at[i];
    const auto at = [&](int i, int64_t place) __attribute__((always_inline)) {
      return reinterpret_cast<R*>(from[i] + place);
    };
#pragma GCC unroll 9
    for (int64_t t = 0; t < number; ++t) {
      const int64_t place = taps.place[t], grad_place = place + to_grad;
      const V weights = repeat_four<V>(taps.weights + 4 * t);
      V dots[4];
      for_neighbours([&](auto i) __attribute__((always_inline)) {
        const V weight = one_of_four<i>(weights);
        const R* const pixel = at(i, place);
        R* const grad_pixel = at(i, grad_place);
        dots[i] = grad[0] * load<V>(pixel);
        for (int v = 1; v < vectors; ++v) dots[i] += grad[v] * load<V>(pixel + v * lanes);
        for (int v = 0; v < vectors; ++v) {
          store(grad_pixel + v * lanes, load<V>(grad_pixel + v * lanes) + grad[v] * weight);
        }
      });
      put_sums<add_dots>(dots[0], dots[1], dots[2], dots[3], taps.dots + 4 * t);
    }
  }
}

}  // namespace internimage
