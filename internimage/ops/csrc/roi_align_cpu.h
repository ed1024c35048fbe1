// RoIAlign on the CPU. Knows nothing of tensors and threads. docs/roi_align_nms.md explains how and why.
//
// Samples lie on a grid, so along each axis those of a bin are first made one: the pixels that they touch, and what
// each counts. Then each bin is a small weighted sum of pixels with their channels in vectors, kBlock channels at a time.
// Where the input is not channels last the pixels that a RoI touches are copied so: a window, not the map.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "points_cpu.h"
#include "roi_align.h"

namespace internimage {

template <typename R>
constexpr int64_t kBlock = 128 / int64_t(sizeof(R));  // channels that go together

// What the bins of a RoI take from the map along one axis.
template <typename R>
class BinAxis {
 public:
  // Pixels are numbered as in `pixels`.
  struct Bin {
    int64_t first, count;
    const R* weights;
  };

  BinAxis(int64_t bins, int64_t size) : size_(size), bins_(bins), weights_(bins * size), index_(size) {
    pixels_.reserve(size);
  }

  void set(const SampleAxis<R>& axis) {
    int64_t low = size_, high = -1;
    std::fill(weights_.begin(), weights_.end(), R(0));
    for (int64_t number = 0; number < int64_t(bins_.size()); ++number) {
      R* const weights = &weights_[number * size_];
      int64_t first = size_, last = -1;
      const auto range = axis.within(number);
      for (int64_t sample = range.first; sample < range.last; ++sample) {
        const SamplePixels<R> pixels(axis.place(number, sample), axis.size);
        if (!pixels.in_map) continue;
        const int64_t next = std::min(pixels.first + 1, size_ - 1);
        weights[pixels.first] += pixels.here / axis.count, weights[next] += pixels.next / axis.count;
        touch(pixels.first), touch(next);
        first = std::min(first, pixels.first), last = std::max(last, next);
      }
      bins_[number] = {first, last - first + 1, weights};
      low = std::min(low, first), high = std::max(high, last);
    }
    number_pixels(low, high);
  }

  const std::vector<int64_t>& pixels() const { return pixels_; }  // all that are touched, in order
  const Bin& bin(int64_t number) const { return bins_[number]; }

 private:
  void touch(int64_t pixel) { index_[pixel] = 1; }

  // From the pixels of the map to those that are touched.
  void number_pixels(int64_t low, int64_t high) {
    pixels_.clear();
    for (int64_t pixel = low; pixel <= high; ++pixel) {
      if (!index_[pixel]) continue;
      index_[pixel] = int64_t(pixels_.size());
      pixels_.push_back(pixel);
    }
    for (Bin& bin : bins_) {
      if (bin.count <= 0) {
        bin = {0, 0, bin.weights};
        continue;
      }
      const int64_t first = index_[bin.first], last = index_[bin.first + bin.count - 1];
      R* const weights = &weights_[bin.weights - weights_.data()];
      for (int64_t i = first; i <= last; ++i) weights[i - first] = weights[pixels_[i]];  // pixels_[i] >= i
      bin = {first, last - first + 1, weights};
    }
    for (const int64_t pixel : pixels_) index_[pixel] = 0;
  }

  const int64_t size_;
  std::vector<Bin> bins_;
  std::vector<R> weights_;      // of a bin for every pixel of the map, then for those from its first on
  std::vector<int64_t> index_;  // whether a pixel is touched, then its number
  std::vector<int64_t> pixels_;
};

// Copies between planes, each channel's elements side by side, and pixels, kBlock channels of each side by side. What
// moves: `count` elements of `channels` planes that lie `plane` elements apart.
template <typename T>
void planes_to_pixels(const T* planes, int64_t plane, int64_t channels, int64_t count, Real<T>* pixels) {
  using R = Real<T>;
  using V = Vector<R, 32 / sizeof(R)>;
  constexpr int64_t lanes = kLanes<V>;
  int64_t c = 0;
  for (; count >= lanes && c + lanes <= channels; c += lanes) {
    for (int64_t begin = 0; begin < count; begin += lanes) {
      const int64_t i = std::min(begin, count - lanes);  // the last overlaps the one before
      V all[lanes];
      for (int64_t lane = 0; lane < lanes; ++lane) all[lane] = load<V>(planes + (c + lane) * plane + i);
      transpose(all);
      for (int64_t lane = 0; lane < lanes; ++lane) store(pixels + (i + lane) * kBlock<R> + c, all[lane]);
    }
  }
  for (; c < channels; ++c) {
    for (int64_t i = 0; i < count; ++i) pixels[i * kBlock<R> + c] = R(planes[c * plane + i]);
  }
}

// The inverse; with `add`, onto what is there.
template <bool add, typename T>
void pixels_to_planes(const Real<T>* pixels, T* planes, int64_t plane, int64_t channels, int64_t count) {
  using R = Real<T>;
  using V = Vector<R, 32 / sizeof(R)>;
  constexpr int64_t lanes = kLanes<V>;
  const int64_t whole = count / lanes * lanes;
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    for (int64_t i = 0; i < whole; i += lanes) {
      V all[lanes];
      for (int64_t lane = 0; lane < lanes; ++lane) all[lane] = load<V>(pixels + (i + lane) * kBlock<R> + c);
      transpose(all);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        T* const to = planes + (c + lane) * plane + i;
        if constexpr (add) all[lane] += load<V>(to);
        store(to, all[lane]);
      }
    }
  }
  const auto move = [&](int64_t channel, int64_t i) {
    const R value = pixels[i * kBlock<R> + channel];
    T& to = planes[channel * plane + i];
    to = T(add ? R(to) + value : value);
  };
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t i = channel < c ? whole : 0; i < count; ++i) move(channel, i);
  }
}

// Calls f(first pixel, their number, where they begin in the window) for each run of neighbours in a window's rows.
template <typename F>
void for_window_runs(const RoIAlign& a, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
                     const F& f) {
  const int64_t width = int64_t(columns.size());
  for (int64_t row = 0; row < int64_t(rows.size()); ++row) {
    for (int64_t begin = 0; begin < width;) {
      int64_t end = begin + 1;
      while (end < width && columns[end] == columns[end - 1] + 1) ++end;
      f(rows[row] * a.width + columns[begin], end - begin, row * width + begin);
      begin = end;
    }
  }
}

// What computes RoIs, one after the other: the places of the current one, and scratch memory.
template <typename T>
class RoISampler {
 public:
  using R = Real<T>;
  using V = WidestVector<R>;
  static constexpr int lanes = kLanes<V>, vectors = int(kBlock<R> / lanes);

  explicit RoISampler(const RoIAlign& a)
      : a_(a), y_(a.rows, a.height), x_(a.columns, a.width), bins_(a.bins() * kBlock<R>) {}

  // roi: index, x1, y1, x2, y2. The image's number, or -1 where the RoI touches none.
  int64_t set(const R* roi) {
    const int64_t image = image_of_roi(roi[0], a_.n);
    if (image < 0) return -1;
    const int ratio = int(a_.sampling_ratio);
    y_.set(SampleAxis<R>(roi[2], roi[4], R(a_.scale), a_.aligned, ratio, a_.rows, a_.height));
    x_.set(SampleAxis<R>(roi[1], roi[3], R(a_.scale), a_.aligned, ratio, a_.columns, a_.width));
    return y_.pixels().empty() || x_.pixels().empty() ? -1 : image;
  }

  // The bins of `channels` channels of an image, of which `input` is the first: to `output` [channels, bins].
  void forward(const T* input, bool channels_last, int64_t channels, T* output) {
    window(input, channels_last, channels);
    for_bins([&](int64_t bin, const auto& y, const auto& x) {
      V sum[vectors] = {};
      for (int64_t row = 0; row < y.count; ++row) {
        const R* const from = first_ + rows_[y.first + row];
        for (int64_t column = 0; column < x.count; ++column) {
          const R weight = y.weights[row] * x.weights[column];
          const R* const pixel = from + columns_[x.first + column];
          for (int v = 0; v < vectors; ++v) sum[v] += load<V>(pixel + v * lanes) * weight;
        }
      }
      for (int v = 0; v < vectors; ++v) store(bins_.data() + bin * kBlock<R> + v * lanes, sum[v]);
    });
    pixels_to_planes<false>(bins_.data(), output, a_.bins(), channels, a_.bins());
  }

  // Adds to `grad_input` [channels, height, width] what `grad_output` [channels, bins] gives.
  void backward(const T* grad_output, int64_t channels, R* grad_input) {
    planes_to_pixels(grad_output, a_.bins(), channels, a_.bins(), bins_.data());
    R* const pixels = own_window();
    std::fill_n(pixels, int64_t(rows_.size() * columns_.size()) * kBlock<R>, R(0));
    for_bins([&](int64_t bin, const auto& y, const auto& x) {
      V grad[vectors];
      for (int v = 0; v < vectors; ++v) grad[v] = load<V>(bins_.data() + bin * kBlock<R> + v * lanes);
      for (int64_t row = 0; row < y.count; ++row) {
        R* const to = pixels + rows_[y.first + row];
        for (int64_t column = 0; column < x.count; ++column) {
          const R weight = y.weights[row] * x.weights[column];
          R* const pixel = to + columns_[x.first + column];
          for (int v = 0; v < vectors; ++v) store(pixel + v * lanes, load<V>(pixel + v * lanes) + grad[v] * weight);
        }
      }
    });
    for_window_runs(a_, y_.pixels(), x_.pixels(), [&](int64_t pixel, int64_t count, int64_t at) {
      pixels_to_planes<true>(pixels + at * kBlock<R>, grad_input + pixel, a_.pixels(), channels, count);
    });
  }

 private:
  template <typename F>
  void for_bins(const F& f) {
    for (int64_t row = 0; row < a_.rows; ++row) {
      for (int64_t column = 0; column < a_.columns; ++column) f(row * a_.columns + column, y_.bin(row), x_.bin(column));
    }
  }

  // Finds or makes kBlock channels of what the RoI touches.
  void window(const T* input, bool channels_last, int64_t channels) {
    if constexpr (std::is_same_v<T, R>) {
      if (channels_last && channels == kBlock<R>) {
        first_ = input;
        rows_.clear(), columns_.clear();
        for (const int64_t row : y_.pixels()) rows_.push_back(row * a_.width * a_.channels);
        for (const int64_t column : x_.pixels()) columns_.push_back(column * a_.channels);
        return;
      }
    }
    R* const pixels = own_window();
    for_window_runs(a_, y_.pixels(), x_.pixels(), [&](int64_t pixel, int64_t count, int64_t at) {
      R* const to = pixels + at * kBlock<R>;
      if (!channels_last) return planes_to_pixels(input + pixel, a_.pixels(), channels, count, to);
      for (int64_t i = 0; i < count; ++i) {
        const T* const from = input + (pixel + i) * a_.channels;
        for (int64_t c = 0; c < channels; ++c) to[i * kBlock<R> + c] = R(from[c]);
      }
    });
  }

  R* own_window() {
    const int64_t height = int64_t(y_.pixels().size()), width = int64_t(x_.pixels().size());
    if (int64_t(window_.size()) < height * width * kBlock<R>) window_.resize(height * width * kBlock<R>);
    rows_.resize(height), columns_.resize(width);
    for (int64_t row = 0; row < height; ++row) rows_[row] = row * width * kBlock<R>;
    for (int64_t column = 0; column < width; ++column) columns_[column] = column * kBlock<R>;
    first_ = window_.data();
    return window_.data();
  }

  const RoIAlign a_;
  BinAxis<R> y_, x_;
  std::vector<R> bins_, window_;
  const R* first_ = nullptr;            // channels of the window's pixels: at first_ + rows_[row] + columns_[column]
  std::vector<int64_t> rows_, columns_;
};

// The RoIs [begin, end). `input` in one of two layouts, rois [rois, 5].
template <typename T>
void roi_align_forward(const RoIAlign& a, const T* input, bool channels_last, const Real<T>* rois, T* output,
                       int64_t begin, int64_t end) {
  constexpr int64_t block = kBlock<Real<T>>;
  RoISampler<T> sampler(a);
  for (int64_t roi = begin; roi < end; ++roi) {
    T* const bins = output + roi * a.channels * a.bins();
    const int64_t image = sampler.set(rois + 5 * roi);
    if (image < 0) {
      std::fill_n(bins, a.channels * a.bins(), T(0));
      continue;
    }
    const T* const first = input + image * a.channels * a.pixels();
    for (int64_t c = 0; c < a.channels; c += block) {
      sampler.forward(first + (channels_last ? c : c * a.pixels()), channels_last, std::min(block, a.channels - c),
                      bins + c * a.bins());
    }
  }
}

// The gradient of the channels [begin, end), in units of kBlock, of all images: no two calls write to one place, so any
// number of threads gives the same bits. `grad_input`, in the arithmetic type, is zero at first.
template <typename T>
void roi_align_backward(const RoIAlign& a, const T* grad_output, const Real<T>* rois, Real<T>* grad_input,
                        int64_t begin, int64_t end) {
  constexpr int64_t block = kBlock<Real<T>>;
  RoISampler<T> sampler(a);
  for (int64_t roi = 0; roi < a.rois; ++roi) {
    const int64_t image = sampler.set(rois + 5 * roi);
    if (image < 0) continue;
    for (int64_t c = begin * block; c < std::min(end * block, a.channels); c += block) {
      sampler.backward(grad_output + (roi * a.channels + c) * a.bins(), std::min(block, a.channels - c),
                       grad_input + (image * a.channels + c) * a.pixels());
    }
  }
}

}  // namespace internimage
