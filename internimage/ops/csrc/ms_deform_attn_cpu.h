// Multi-scale deformable attention on the CPU: the points of a query as those of DCNv3, each with a map of its own size.
// Knows nothing of tensors and threads. docs/ms_deform_attn.md explains how and why.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention.h"
#include "channels_cpu.h"

namespace internimage {

// All points of one query in `heads` heads. T: stored type of the weights; locations are of arithmetic type.
template <typename T>
class LevelSampler {
 public:
  using R = Real<T>;
  using V = WidestVector<R>;

  LevelSampler(const Attention& a, int64_t heads)
      : samples_(a.samples()),
        count_(heads * samples_),
        step_x_(int32_t(places_of<R>(a.heads, a.head_channels))),
        points_(count_, step_x_) {
    int64_t first = 0;  // pixel of the level
    for (int64_t level = 0; level < a.levels; ++level) {
      for (int64_t i = 0; i < heads * a.points; ++i) {
        const int64_t head = i / a.points, t = head * samples_ + level * a.points + i % a.points;
        height_[t] = R(a.height(level)), width_[t] = R(a.width(level));
        step_y_[t] = int32_t(a.width(level)) * step_x_;
        first_[t] = int32_t(first) * step_x_ + int32_t(places_of<R>(head, a.head_channels));
      }
      first += a.height(level) * a.width(level);
    }
  }

  // Reads what one query has; `backward` keeps what `gradients` needs.
  template <bool backward>
  void prepare(const R* locations, const T* weights) {
    if (count_ < lanes) {  // else the last vector begins early enough to end with the last point
      std::copy_n(locations, 2 * count_, few_locations_);
      std::copy_n(weights, count_, few_weights_);
      locations = few_locations_, weights = few_weights_;
    }
    // Local copies: as far as a compiler knows, every store could change the members.
    const int64_t count = count_;
    const R *const heights = height_.data(), *const widths = width_.data();
    const int32_t *const steps_y = step_y_.data(), *const firsts = first_.data();
    const auto target = points_.target();
    for (int64_t begin = 0; begin < count; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, count);
      const V location0 = load<V>(locations + 2 * t), location1 = load<V>(locations + 2 * t + lanes);
      const V height = load<V>(heights + t), width = load<V>(widths + t);
      const V y = every_second<1>(location0, location1) * height - R(0.5);
      const V x = every_second<0>(location0, location1) * width - R(0.5);
      target.template put<backward, backward>(begin, t, y, x, load<V>(weights + t), height, width,
                                              load<Int>(firsts + t), load<Int>(steps_y + t));
    }
  }

  Taps<R> taps_of(int64_t head) { return points_.taps(head * samples_, 1); }

  // From the dots: the gradients of the locations and of the weights.
  void gradients(R* grad_locations, T* grad_weights) {
    const bool few = count_ < lanes;
    R* const locations_out = few ? few_locations_ : grad_locations;
    T* const weights_out = few ? few_weights_ : grad_weights;
    const typename Points<R>::Factors* const factors = points_.factors();
    const R *const weights = points_.weights(), *const dots = points_.dots();
    const R *const heights = height_.data(), *const widths = width_.data();
    const int64_t count = count_;
    for (int64_t begin = 0; begin < count; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, count);
      const auto by = Points<R>::derivatives(factors[begin / lanes], dots + 4 * t);
      const V weight = load<V>(weights + t);
      const V x = load<V>(widths + t) * weight * by.x, y = load<V>(heights + t) * weight * by.y;
      store(weights_out + t, by.weight);
      store(locations_out + 2 * t, interleave<0>(x, y));
      store(locations_out + 2 * t + lanes, interleave<1>(x, y));
    }
    if (few) std::copy_n(few_locations_, 2 * count, grad_locations), std::copy_n(few_weights_, count, grad_weights);
  }

 private:
  using Int = typename Points<R>::Int;

  static constexpr int lanes = kLanes<V>;

  const int64_t samples_, count_;
  const int32_t step_x_;  // places from a pixel to the next
  Points<R> points_;
  Array<R> height_{points_.room()}, width_{points_.room()};          // of the level of each point
  Array<int32_t> step_y_{points_.room()}, first_{points_.room()};  // places between its rows, and before it
  R few_locations_[2 * lanes] = {};
  T few_weights_[lanes] = {};
};

// The queries [begin, end), numbered over all images. `image` [n, pixels, heads * padded_channels].
template <typename T>
void ms_deform_attn_forward(const Attention& a, const Real<T>* image, const Real<T>* locations, const T* weights,
                            T* output, int64_t begin, int64_t end) {
  using R = Real<T>;
  const int64_t padded = padded_channels<R>(a.head_channels), samples = a.samples(), points = a.heads * samples;
  const Array<R> spare(padded);
  LevelSampler<T> sampler(a, a.heads);
  for (int64_t q = begin; q < end; ++q) {
    const R* const first = image + q / a.queries * a.pixels * a.heads * padded;
    sampler.template prepare<false>(locations + 2 * q * points, weights + q * points);
    for_runs<kVectorBytes, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
      T* to = output + q * a.channels() + c;
      for (int64_t head = 0; head < a.heads; ++head, to += a.head_channels) {
        gather<decltype(vector), vectors, 0>(sampler.taps_of(head), samples, first + c, spare.data(), to,
                                             a.head_channels - c);
      }
    });
  }
}

// The gradients of the heads [begin, end), numbered over all images: no two calls write to one place, so any number of
// threads gives the same bits. `grad_image`, of the form of `image`, is zero at first.
template <typename T>
void ms_deform_attn_backward(const Attention& a, const T* grad_output, const Real<T>* image, const Real<T>* locations,
                             const T* weights, Real<T>* grad_image, Real<T>* grad_locations, T* grad_weights,
                             int64_t begin, int64_t end) {
  using R = Real<T>;
  const int64_t padded = padded_channels<R>(a.head_channels), samples = a.samples();
  // One for each point: that a store is loaded again at once would cost more than it takes.
  const Array<R> spare(samples * padded);
  Array<R> grad_spare(samples * padded);
  while (begin < end) {
    const int64_t n = begin / a.heads, first_head = begin % a.heads;
    const int64_t heads = std::min(a.heads - first_head, end - begin);
    begin += heads;
    const int64_t start = (n * a.pixels * a.heads + first_head) * padded;
    LevelSampler<T> sampler(a, heads);
    for (int64_t q = n * a.queries; q < (n + 1) * a.queries; ++q) {
      const int64_t at = (q * a.heads + first_head) * samples;
      sampler.template prepare<true>(locations + 2 * at, weights + at);
      // Wider vectors are slower here: what limits is how soon a store can be loaded again.
      for_runs<32, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
        const auto all_heads = [&](auto add_dots) __attribute__((always_inline)) {
          const T* from = grad_output + q * a.channels() + first_head * a.head_channels + c;
          for (int64_t head = 0; head < heads; ++head, from += a.head_channels) {
            decltype(vector) grad[decltype(vectors)::value];
            load_scaled(from, a.head_channels - c, R(1), grad);
            scatter<add_dots>(sampler.taps_of(head), samples, image + start + c, spare.data(), grad_image + start + c,
                              grad_spare.data(), padded, grad);
          }
        };
        c == 0 ? all_heads(std::false_type{}) : all_heads(std::true_type{});
      });
      sampler.gradients(grad_locations + 2 * at, grad_weights + at);
    }
  }
}

}  // namespace internimage
