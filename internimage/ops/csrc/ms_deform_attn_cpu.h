// Multi-scale deformable attention on the CPU: the points of a query as those of DCNv3, each with a map of its own size.
// Knows nothing of tensors and threads. docs/ms_deform_attn.md explains how and why.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

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
        last_row_[t] = last_pair<R>(a.height(level)), last_column_[t] = last_pair<R>(a.width(level));
        step_y_[t] = int32_t(a.width(level)) * step_x_;
        first_[t] = int32_t(first) * step_x_ + int32_t(places_of<R>(head, a.head_channels));
      }
      first += a.height(level) * a.width(level);
      corners_.emplace_back(a.height(level), a.width(level), int64_t(step_x_) * kPlaceBytes);
    }
  }

  // Reads what one query has; `backward` keeps what `gradients` needs. `outside`: as in Sampler.
  template <bool backward>
  void prepare(const R* locations, const T* weights, int64_t outside) {
    if (count_ < lanes) {  // else the last vector begins early enough to end with the last point
      std::copy_n(locations, 2 * count_, few_locations_);
      std::copy_n(weights, count_, few_weights_);
      locations = few_locations_, weights = few_weights_;
    }
    // Local copies: as far as a compiler knows, every store could change the members.
    const int64_t count = count_;
    const R *const heights = height_.data(), *const widths = width_.data();
    const R *const last_rows = last_row_.data(), *const last_columns = last_column_.data();
    const int32_t *const steps_y = step_y_.data(), *const firsts = first_.data();
    const auto target = points_.target();
    for (int64_t begin = 0; begin < count; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, count);
      V x, y;
      load_pairs(locations + 2 * t, x, y);
      y = y * load<V>(heights + t) - R(0.5), x = x * load<V>(widths + t) - R(0.5);
      target.locate(begin, y, x, load<V>(last_rows + t), load<V>(last_columns + t), load<Int>(firsts + t),
                    load<Int>(steps_y + t));
    }
    for (int64_t begin = 0; begin < count; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, count);
      target.template weigh<backward, backward>(begin, t, load<V>(weights + t), load<V>(last_rows + t),
                                                load<V>(last_columns + t), outside);
    }
  }

  const Corners* corners() const { return corners_.data(); }

  Taps<R> taps_of(int64_t head) { return points_.taps(head * samples_, 1); }

  // From the dots: the gradients of the locations and of the weights.
  void gradients(R* grad_locations, T* grad_weights) {
    const bool few = count_ < lanes;
    R* const locations_out = few ? few_locations_ : grad_locations;
    T* const weights_out = few ? few_weights_ : grad_weights;
    const auto target = points_.target();
    const R *const weights = points_.weights(), *const dots = points_.dots();
    const R *const heights = height_.data(), *const widths = width_.data();
    const R *const last_rows = last_row_.data(), *const last_columns = last_column_.data();
    const int64_t count = count_;
    for (int64_t begin = 0; begin < count; begin += lanes) {
      const int64_t t = Points<R>::vector_at(begin, count);
      const auto by = Points<R>::derivatives(target, begin, dots + 4 * t, load<V>(last_rows + t),
                                              load<V>(last_columns + t));
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
  std::vector<Corners> corners_;  // of each level
  Array<R> last_row_{points_.room()}, last_column_{points_.room()};
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
  const int64_t count = a.head_channels, last = end * a.channels();
  const Array<R> spare((a.widest() + 1) * a.heads * padded + padded);
  LevelSampler<T> sampler(a, a.heads);
  for (int64_t q = begin; q < end; ++q) {
    const R* const first = image + q / a.queries * a.pixels * a.heads * padded;
    sampler.template prepare<false>(locations + 2 * q * points, weights + q * points,
                                    bytes_between(first, spare.data()));
    for_runs<kVectorBytes, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
      for (int64_t head = 0; head < a.heads; ++head) {
        const int64_t at = (q * a.heads + head) * count;
        gather<decltype(vector), vectors, 0>(sampler.taps_of(head), a.points, sampler.corners(), a.levels, first + c,
                                             output + at + c, count - c, room(c, count, last - at));
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
  const int64_t count = a.head_channels, last = a.n * a.queries * a.channels();
  const int64_t to_grad = bytes_between(image, static_cast<const R*>(grad_image));
  while (begin < end) {
    const int64_t n = begin / a.heads, first_head = begin % a.heads;
    const int64_t heads = std::min(a.heads - first_head, end - begin);
    begin += heads;
    const int64_t start = (n * a.pixels * a.heads + first_head) * padded;
    LevelSampler<T> sampler(a, heads);
    for (int64_t q = n * a.queries; q < (n + 1) * a.queries; ++q) {
      const int64_t at = (q * a.heads + first_head) * samples;
      sampler.template prepare<true>(locations + 2 * at, weights + at, 0);
      // Wider vectors are slower here: what limits is how soon a store can be loaded again.
      for_runs<32, R>(padded, [&](auto vector, auto vectors, int64_t c) __attribute__((always_inline)) {
        const auto all_heads = [&](auto add_dots) __attribute__((always_inline)) {
          for (int64_t head = 0; head < heads; ++head) {
            const int64_t from = (q * a.heads + first_head + head) * count + c;
            decltype(vector) grad[decltype(vectors)::value];
            load_scaled(grad_output + from, count - c, last - from, R(1), grad);
            scatter<add_dots, 0>(sampler.taps_of(head), a.points, sampler.corners(), a.levels, image + start + c,
                                 to_grad, grad);
          }
        };
        c == 0 ? all_heads(std::false_type{}) : all_heads(std::true_type{});
      });
      sampler.gradients(grad_locations + 2 * at, grad_weights + at);
    }
  }
}

}  // namespace internimage
