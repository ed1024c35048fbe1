// The layers of InternImage for inference on a CPU, each in one pass: convolution or linear layer with the norm,
// activation and residual that follow it; the MLP; the depthwise convolution with norm and activation. float32.
#pragma once

#include <cmath>
#include <cstdint>

#include "panels.h"

namespace internimage {

// Scratch memory of a thread (0: copied input, 1: hidden map), kept between calls: fresh pages would cost more than some
// of the layers.
inline float* scratch(int slot, int64_t size) {
  static thread_local std::vector<float> buffers[2];
  if (int64_t(buffers[slot].size()) < size) buffers[slot].resize(size);
  return buffers[slot].data();
}

// x (1 + erf(x / sqrt 2)) / 2. The error function by a rational function of x^2, fitted to 1e-8 on |x| < 5.6, beyond
// which it is 1 to float32.
INTERNIMAGE_INLINE Wide gelu(Wide x) {
  const Wide zero{}, bound = zero + 5.6f, t = x * x;
  Wide p = zero + 2.214543989e-8f;
  p = p * t + 6.356510060e-6f;
  p = p * t + 1.738484526e-4f;
  p = p * t + 4.707245314e-3f;
  p = p * t + 3.437588841e-2f;
  p = p * t + 3.989422216e-1f;
  Wide q = zero + 1.180214135e-6f;
  q = q * t + 7.510116386e-5f;
  q = q * t + 1.912965223e-3f;
  q = q * t + 2.893996078e-2f;
  q = q * t + 2.528332871e-1f;
  q = q * t + 1.0f;
  return x > bound ? x : x < -bound ? zero : x * (x * p / q + 0.5f);
}

// x = f(x) over `count` elements; the last few go through a padded vector.
template <typename F>
INTERNIMAGE_INLINE void map(float* x, int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + kWide <= count; i += kWide) store(x + i, f(load<Wide>(x + i)));
  if (i < count) {
    float rest[kWide] = {};
    std::copy_n(x + i, count - i, rest);
    store(rest, f(load<Wide>(rest)));
    std::copy_n(rest, count - i, x + i);
  }
}

inline void copy_floats(const float* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kWide <= count; i += kWide) store(to + i, load<Wide>(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

// A LayerNorm over `channels`, with weight and bias one after the other; none where `affine` is null.
struct Norm {
  const float* affine;
  int64_t channels;
  float eps;

  explicit operator bool() const { return affine != nullptr; }

  struct Moments {
    float mean, scale;
  };

  Moments moments(const float* x) const {
    Wide sum{}, squares{};
    const int64_t whole = channels / kWide * kWide;
    float rest = 0, rest_squares = 0;
    for (int64_t i = 0; i < whole; i += kWide) sum += load<Wide>(x + i);
    for (int64_t i = whole; i < channels; ++i) rest += x[i];
    const float mean = (sum_of(sum) + rest) / float(channels);
    for (int64_t i = 0; i < whole; i += kWide) {
      const Wide d = load<Wide>(x + i) - mean;
      squares += d * d;
    }
    for (int64_t i = whole; i < channels; ++i) rest_squares += (x[i] - mean) * (x[i] - mean);
    return {mean, 1 / std::sqrt((sum_of(squares) + rest_squares) / float(channels) + eps)};
  }

  // Normalises the elements [first, first + count) of a row with the moments `m`, then applies `then`.
  template <typename Then>
  void apply(const float* x, float* to, int64_t first, int64_t count, Moments m, const Then& then) const {
    const float* const weight = affine + first;
    const float* const bias = affine + channels + first;
    int64_t i = 0;
    for (; i + kWide <= count; i += kWide) {
      store(to + i, then((load<Wide>(x + i) - m.mean) * m.scale * load<Wide>(weight + i) + load<Wide>(bias + i)));
    }
    for (; i < count; ++i) to[i] = then(Wide{} + ((x[i] - m.mean) * m.scale * weight[i] + bias[i]))[0];
  }
};

// What is done to a finished product: norm, then activation, then the residual is added.
struct Finish {
  Norm norm;
  bool activate;
  const float* residual;  // of the block's first row; null for none

  // Without a norm tiles can be finished while they lie in the first cache; with one it takes whole rows.
  void columns(const Rows& c, int64_t row, int64_t rows, int64_t column, int64_t count, int64_t residual_stride) const {
    for (int64_t r = row; r < row + rows; ++r) {
      float* const x = c.at(r, column);
      if (activate) map(x, count, [](Wide v) { return gelu(v); });
      if (residual) {
        const float* const y = residual + r * residual_stride + column;
        int64_t i = 0;
        for (; i + kWide <= count; i += kWide) store(x + i, load<Wide>(x + i) + load<Wide>(y + i));
        for (; i < count; ++i) x[i] += y[i];
      }
    }
  }

  void rows(const Rows& c, int64_t count, int64_t residual_stride) const {
    for (int64_t r = 0; r < count; ++r) {
      float* const x = c.at(r, 0);
      norm.apply(x, x, 0, norm.channels, norm.moments(x), [](Wide v) { return v; });
    }
    columns(c, 0, count, 0, norm.channels, residual_stride);
  }
};

// The rows of a map as they are, or normalised.
struct PlainRows {
  const float* data;
  int64_t channels;
  Norm norm;

  // Copies the elements [first, first + count) of rows [row, row + rows) to `to`, rows `kStride` apart.
  void copy(int64_t row, int64_t rows, int64_t first, int64_t count, float* to) const {
    for (int64_t r = 0; r < rows; ++r) {
      const float* const x = data + (row + r) * channels;
      if (norm) {
        norm.apply(x + first, to + r * kStride, first, count, norm.moments(x), [](Wide v) { return v; });
      } else {
        copy_floats(x + first, to + r * kStride, count);
      }
    }
  }
};

// A row for each output pixel of a square convolution: the channels under its first tap, its second, and so on. The
// taps of one kernel row are neighbours in memory.
struct ConvolvedRows {
  const float* data;
  int64_t h, w, channels, out_h, out_w, kernel, stride;

  void copy(int64_t row, int64_t rows, int64_t first, int64_t count, float* to) const {
    const int64_t padding = kernel / 2, line = kernel * channels;
    for (int64_t r = row; r < row + rows; ++r, to += kStride) {
      const int64_t n = r / (out_h * out_w), top = r / out_w % out_h * stride - padding;
      const int64_t left = r % out_w * stride - padding;
      const int64_t begin = std::max<int64_t>(0, -left) * channels, end = std::min(kernel, w - left) * channels;
      for (int64_t k = first, stop; k < first + count; k = stop) {
        const int64_t y = top + k / line, start = k / line * line;  // of this kernel row
        stop = std::min(start + line, first + count);
        const int64_t inside = std::clamp(start + begin, k, stop), outside = std::clamp(start + end, inside, stop);
        float* const out = to - first;
        if (y < 0 || y >= h) {
          std::fill(out + k, out + stop, 0.0f);
          continue;
        }
        std::fill(out + k, out + inside, 0.0f);
        copy_floats(data + (((n * h + y) * w + left) * channels + inside - start), out + inside, outside - inside);
        std::fill(out + outside, out + stop, 0.0f);
      }
    }
  }
};

// Multiplies the rows [row, row + rows) of `source`, at most kBlockRows, into c, and finishes them.
template <typename Source>
void linear_block(const Source& source, int64_t row, int64_t rows, const Panels& w, const Rows& c, const Finish& f,
                  int64_t residual_stride) {
  float* const a = scratch(0, kChunk);
  for (int64_t k = 0; k < w.depth; k += kDepth) {
    source.copy(row, rows, k, std::min<int64_t>(kDepth, w.depth - k), a);
    multiply(a, rows, w, k, c, [&](int64_t r, int64_t count, int64_t column, int64_t columns) {
      if (!f.norm) f.columns(c, r, count, column, columns, residual_stride);
    });
  }
  if (f.norm) f.rows(c, rows, residual_stride);
}

// out = finish(w2 gelu(w1 rows)): the hidden map of a block stays in the cache.
inline void mlp_block(const PlainRows& source, int64_t row, int64_t rows, const Panels& w1, const Panels& w2,
                      const Rows& c, const Finish& f, int64_t residual_stride) {
  const Rows hidden{scratch(1, w2.chunks() * kChunk), kStride, true};
  linear_block(source, row, rows, w1, hidden, Finish{{}, true, nullptr}, 0);
  for (int64_t k = 0; k < w2.depth; k += kDepth) {
    multiply(hidden.at(0, k), rows, w2, k, c, [&](int64_t r, int64_t count, int64_t column, int64_t columns) {
      if (!f.norm) f.columns(c, r, count, column, columns, residual_stride);
    });
  }
  if (f.norm) f.rows(c, rows, residual_stride);
}

struct Depthwise {
  const float *weight, *bias;  // weight [kernel * kernel, channels]
  int64_t kernel, h, w, channels;
  Norm norm;

  // Output row y of image n, [w, channels]: a vector of channels at a time, its weights staying in registers.
  template <int fixed_kernel>
  void convolve_row(const float* image, int64_t y, float* out) const {
    const int64_t size = fixed_kernel ? fixed_kernel : kernel, padding = size / 2;
    const int64_t top = std::max<int64_t>(0, padding - y), bottom = std::min(size, h + padding - y);
    for (int64_t c = 0; c < channels; c += kWide) {
      const int64_t count = std::min<int64_t>(kWide, channels - c);
      const auto get = [&](const float* from) {
        if (count == kWide) return load<Wide>(from);
        float rest[kWide] = {};
        std::copy_n(from, count, rest);
        return load<Wide>(rest);
      };
      const Wide start = get(bias + c);
      for (int64_t x = 0; x < w; ++x) {
        const int64_t left = std::max<int64_t>(0, padding - x), right = std::min(size, w + padding - x);
        Wide sum = start;
        const auto add = [&](int64_t i, int64_t j) {
          const float* const from = image + ((y + i - padding) * w + x + j - padding) * channels + c;
          sum += get(from) * get(weight + (i * size + j) * channels + c);
        };
        if (left == 0 && right == size && count == kWide) {
          for (int64_t i = top; i < bottom; ++i) {
            const float* from = image + ((y + i - padding) * w + x - padding) * channels + c;
            const float* by = weight + i * size * channels + c;
            for (int64_t j = 0; j < size; ++j, from += channels, by += channels) {
              sum += load<Wide>(from) * load<Wide>(by);
            }
          }
        } else {
          for (int64_t i = top; i < bottom; ++i) {
            for (int64_t j = left; j < right; ++j) add(i, j);
          }
        }
        if (count == kWide) {
          store(out + x * channels + c, sum);
        } else {
          for (int64_t i = 0; i < count; ++i) out[x * channels + c + i] = sum[i];
        }
      }
    }
  }

  void row(const float* image, int64_t y, float* out) const {
    switch (kernel) {
      case 3: convolve_row<3>(image, y, out); break;
      case 5: convolve_row<5>(image, y, out); break;
      default: convolve_row<0>(image, y, out);
    }
    for (int64_t x = 0; x < w; ++x) {
      float* const pixel = out + x * channels;
      norm.apply(pixel, pixel, 0, channels, norm.moments(pixel), [](Wide v) { return gelu(v); });
    }
  }
};

}  // namespace internimage
