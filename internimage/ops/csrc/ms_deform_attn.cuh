// Multi-scale deformable attention on CUDA: the kernels. Includes nothing of torch. Deformable DETR (arXiv 2010.04159),
// Eq. 3.
//
// Tensors are channels last. Halves are read and written as such; locations and all arithmetic are float32. 32 bits
// number what lies within an image, 64 bits the rest.
#pragma once

#include <cstdint>

#include "attention.h"
#include "bilinear.h"
#include "cuda_lanes.cuh"
#include "cuda_samples.cuh"

namespace internimage {

constexpr int kMostLevels = 16;  // they travel with the kernels' arguments

struct Level {
  int height, width;
  int first;  // its first pixel in the image
};

// An Attention and a Part, whose rows are queries, as the kernels read them.
struct AttentionLayout {
  int work;                          // items; a thread takes one after the other
  int64_t first_image, first_query;  // of the part; queries are numbered over all images
  Divisor queries, heads, points;    // queries of an image in the part
  Divisor team;                      // items that share one query and head: threads with channels of their own
  Divisor bands;    // ms_deform_attn_backward_value_in_order: parts of an image with owners of their own, whole blocks
  int band_pixels;  // and how many pixels of the image each has
  int pixels, head_channels, channels, levels, samples;
  Level level[kMostLevels] = {};

  AttentionLayout(const Attention& a, const Part& part, int64_t work, int64_t team, int64_t bands = 1)
      : work(int(work)), first_image(part.first_image),
        first_query(part.first_image * a.queries + part.first_row), queries(part.rows), heads(a.heads),
        points(a.points), team(team), bands(bands), band_pixels(int((a.pixels + bands - 1) / bands)),
        pixels(int(a.pixels)), head_channels(int(a.head_channels)), channels(int(a.channels())), levels(int(a.levels)),
        samples(int(a.samples())) {
    int first = 0;
    for (int i = 0; i < levels; ++i) {
      level[i] = {int(a.height(i)), int(a.width(i)), first};
      first += level[i].height * level[i].width;
    }
  }

  // Of the first channel of an image's head.
  __device__ __forceinline__ int64_t image(int64_t number, int head) const {
    return number * (int64_t(pixels) * channels) + head * head_channels;
  }

  // Of the first channel of a query's head in the output.
  __device__ __forceinline__ int64_t output(int64_t query, int head) const {
    return query * channels + head * head_channels;
  }

  // Of a query's head among all samples.
  __device__ __forceinline__ int64_t sample(int64_t query, int head) const {
    return (query * heads.value + head) * samples;
  }
};

// What an item of a part is about, `member` telling it from those that share query and head.
struct QueryHead {
  int64_t image, query;
  int head, member;

  __device__ __forceinline__ QueryHead(const AttentionLayout& g, int item) {
    const Divisor::Parts in_team = g.team(item), in_heads = g.heads(in_team.quotient);
    image = g.first_image + g.queries(in_heads.quotient).quotient;
    query = g.first_query + in_heads.quotient;
    head = in_heads.remainder;
    member = in_team.remainder;
  }
};

// kPoints points that lie side by side: places from 0 to 1 over their level, x before y, and weights. Those of two points
// move as words of at most 16 bytes, to which they must be aligned; that of one asks for no alignment.
template <typename T, int kPoints>
struct SamplingPoints {
  Real<T> place[2 * kPoints], weight[kPoints];

  __device__ __forceinline__ SamplingPoints(const Real<T>* locations, const T* weights) {
    load_words(locations, place);
    load_words(weights, weight);
  }

  __device__ __forceinline__ BilinearCell<Real<T>> cell(const Level& level, int i) const {
    const Real<T> height = Real<T>(level.height), width = Real<T>(level.width), half = Real<T>(0.5f);
    return locate(place[2 * i + 1] * height - half, place[2 * i] * width - half, height, width);
  }

  // Elements in a word of kCount elements or of 16 bytes.
  template <typename S, int kCount>
  static constexpr int kWord = kPoints == 1 ? 1 : kCount * sizeof(S) <= 16 ? kCount : 16 / sizeof(S);

  template <typename S, int kCount>
  __device__ __forceinline__ static void load_words(const S* from, Real<T> (&to)[kCount]) {
    constexpr int kLanes = kWord<S, kCount>;
#pragma unroll
    for (int i = 0; i < kCount; i += kLanes) {
      Real<T> word[kLanes];
      load(from + i, word);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) to[i + lane] = word[lane];
    }
  }

  template <typename S, int kCount>
  __device__ __forceinline__ static void store_words(const Real<T> (&from)[kCount], S* to) {
    constexpr int kLanes = kWord<S, kCount>;
#pragma unroll
    for (int i = 0; i < kCount; i += kLanes) {
      Real<T> word[kLanes];
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) word[lane] = from[i + lane];
      store(word, to + i);
    }
  }
};

// A thread computes kLanes channels of one query and head. 64 registers let four blocks run at once.
template <typename T, int kLanes, int kPoints>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
ms_deform_attn_forward(const AttentionLayout g, const T* __restrict__ value, const Real<T>* __restrict__ locations,
                       const T* __restrict__ weights, T* __restrict__ output) {
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    const int item = block + int(threadIdx.x);
    if (item >= g.work) continue;
    const QueryHead place(g, item);
    const int channel = place.member * kLanes;
    const T* const image = value + (g.image(place.image, place.head) + channel);
    int64_t sample = g.sample(place.query, place.head);
    Real<T> sum[kLanes] = {};
#pragma unroll 1
    for (int i = 0; i < g.levels; ++i) {
      const Level level = g.level[i];
      const T* const map = image + int64_t(level.first) * g.channels;
#pragma unroll 1
      for (int point = 0; point < int(g.points.value); point += kPoints, sample += kPoints) {
        const SamplingPoints<T, kPoints> points(locations + 2 * sample, weights + sample);
#pragma unroll
        for (int k = 0; k < kPoints; ++k)
          add_sample(points.cell(level, k), points.weight[k], map, level.width, g.channels, sum);
      }
    }
    store(sum, output + (g.output(place.query, place.head) + channel));
  }
}

// A team of threads, each with channels of its own, computes every gradient that one query and head gives. grad_value is
// null where ms_deform_attn_backward_value_in_order computes it.
template <typename T, int kLanes, int kPoints>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2)
ms_deform_attn_backward(const AttentionLayout g, const T* __restrict__ grad_output, const T* __restrict__ value,
                        const Real<T>* __restrict__ locations, const T* __restrict__ weights,
                        Real<T>* __restrict__ grad_value, Real<T>* __restrict__ grad_locations,
                        T* __restrict__ grad_weights) {
  using Points = SamplingPoints<T, kPoints>;
  const int team = int(g.team.value);
  for (int block = int(blockIdx.x) * kThreads; block < g.work; block += int(gridDim.x) * kThreads) {
    // All lanes take part in the sums: those with no item left repeat the last one, without channels.
    const int item = block + int(threadIdx.x);
    const bool has_item = item < g.work;
    const QueryHead place(g, has_item ? item : g.work - 1);
    const int64_t image = g.image(place.image, place.head);
    Channels<T, kLanes> channels(grad_output + g.output(place.query, place.head), g.head_channels, team, place.member,
                                 has_item);
    const bool writes = has_item && place.member == 0;
    int64_t sample = g.sample(place.query, place.head);
#pragma unroll 1
    for (int i = 0; i < g.levels; ++i) {
      const Level level = g.level[i];
      const int64_t first = image + int64_t(level.first) * g.channels;
#pragma unroll 1
      for (int point = 0; point < int(g.points.value); point += kPoints, sample += kPoints) {
        const Points points(locations + 2 * sample, weights + sample);
        Real<T> by_weight[kPoints], by_place[2 * kPoints];
#pragma unroll
        for (int k = 0; k < kPoints; ++k) {
          const BilinearCell<Real<T>> cell = points.cell(level, k);
          const SampleGradient<Real<T>> gradient =
              channels.template gradient<true>(cell, points.weight[k], value + first,
                                               grad_value ? grad_value + first : nullptr, level.width, g.channels);
          const Real<T> along = cell.in_window ? points.weight[k] : 0;
          by_weight[k] = gradient.weight;
          by_place[2 * k] = along * Real<T>(level.width) * gradient.x;
          by_place[2 * k + 1] = along * Real<T>(level.height) * gradient.y;
        }
        sum_over_team(team, by_weight);
        sum_over_team(team, by_place);
        if (writes) {
          Points::store_words(by_place, grad_locations + 2 * sample);
          Points::store_words(by_weight, grad_weights + sample);
        }
      }
    }
  }
}

// The gradient of the value with no atomic additions: a warp owns a band of pixels of one head and image, a block
// neighbouring bands. The lanes of a warp look at all points of the levels that the block touches in order, 32 at a
// time; the whole warp then adds what those in its band give.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
ms_deform_attn_backward_value_in_order(const AttentionLayout g, const T* __restrict__ grad_output,
                                       const Real<T>* __restrict__ locations, const T* __restrict__ weights,
                                       Real<T>* __restrict__ grad_value) {
  const int lane = int(threadIdx.x) % kWarp;
  const int count = int(g.queries.value) * int(g.points.value);  // points of a head in a level
  for (int block = int(blockIdx.x) * kWarps; block < g.work; block += int(gridDim.x) * kWarps) {
    const Divisor::Parts in_bands = g.bands(block), in_heads = g.heads(in_bands.quotient);
    const int head = in_heads.remainder, block_begin = in_bands.remainder * g.band_pixels;
    const int begin = block_begin + int(threadIdx.x) / kWarp * g.band_pixels, end = begin + g.band_pixels;
    const int64_t first_query = g.first_query + int64_t(in_heads.quotient) * g.queries.value;
    Real<T>* const image = grad_value + g.image(g.first_image + in_heads.quotient, head);
    for (int i = 0; i < g.levels; ++i) {
      const Level level = g.level[i];
      const int level_end = level.first + level.height * level.width;
      if (level_end <= block_begin || level.first >= block_begin + kWarps * g.band_pixels) continue;
      Real<T>* const map = image + int64_t(level.first) * g.channels;
      for (int start = 0; start < count; start += kWarp) {
        const bool is_point = start + lane < count;
        const Divisor::Parts in_points = g.points(is_point ? start + lane : count - 1);
        const int64_t query = first_query + in_points.quotient;
        const int64_t number = g.sample(query, head) + i * int(g.points.value) + in_points.remainder;
        const SamplingPoints<T, 1> point(locations + 2 * number, weights + number);
        const BilinearCell<Real<T>> cell = point.cell(level, 0);
        OrderedSample<T> sample;
        sample.touches = false;
        sample.grad_output = g.output(query, head);
        sample.weight = point.weight[0];
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          Corner<Real<T>>& corner = sample.corners[step] = corner_of(cell, level.width, step);
          const int pixel = level.first + corner.pixel;
          corner.present = corner.present && is_point && pixel >= begin && pixel < end;
          sample.touches |= corner.present;
        }
        sample.add(grad_output, map, g.channels, g.head_channels);
      }
    }
  }
}

}  // namespace internimage
