// Matrix products for the fused layers: row-major float32 input, weights packed once into panels of 16 columns.
//
// A tile of the result (12 rows x 32 columns with AVX-512) stays in registers while the depth is run through: two
// loads of weights and one broadcast a row feed two products each, so the multipliers are the limit, not the loads.
// The input is copied into a block of rows at a fixed distance: whoever copies may normalise, or gather the taps of a
// convolution, and one register addresses all rows of a tile. Knows nothing of tensors and threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "simd.h"

namespace internimage {

using Wide = WidestVector<float>;
constexpr int kWide = kLanes<Wide>;
constexpr int kTileRows = kWide == 16 ? 12 : 6;
constexpr int kPanel = 16;     // columns of a panel of weights: [panels, depth, 16], zeros after the last column
constexpr int kDepth = 256;    // of the part of the input that is copied at a time: a pair of panels fits the L1 cache
constexpr int kStride = kDepth + kWide;  // between rows of the copy: no power of two, whose rows would share cache sets
constexpr int kBlockRows = 96;
constexpr int64_t kChunk = int64_t(kBlockRows) * kStride;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A packed weight and its bias, padded to whole panels.
struct Panels {
  const float* data;
  int64_t depth, columns;
  std::vector<float> bias;

  Panels(const float* data, const float* bias_, int64_t depth, int64_t columns)
      : data(data), depth(depth), columns(columns), bias(ceil_div(columns, kPanel) * kPanel) {
    std::copy(bias_, bias_ + columns, bias.begin());
  }
  int64_t chunks() const { return ceil_div(depth, kDepth); }
};

// Where a block of rows lies: row-major, or in chunks of `kDepth` columns as `multiply` takes its input.
struct Rows {
  float* data;
  int64_t stride;
  bool chunked;

  float* at(int64_t row, int64_t column) const {
    return chunked ? data + column / kDepth * kChunk + row * stride + column % kDepth : data + row * stride + column;
  }
};

// c = start + a b for a tile; `start` is the bias, or null to add to what c holds.
template <int rows, int vectors>
void multiply_tile(const float* a, const float* b, int64_t depth, int64_t panel_size, const float* start, float* c,
                   int64_t c_stride) {
  constexpr int per_panel = kPanel / kWide;
  Wide sum[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[r][v] = load<Wide>((start ? start : c + r * c_stride) + v * kWide);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Wide w[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      w[v] = load<Wide>(b + v / per_panel * panel_size + k * kPanel + v % per_panel * kWide);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const float x = a[r * kStride + k];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] += w[v] * x;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + r * c_stride + v * kWide, sum[r][v]);
  }
}

using Tile = void (*)(const float*, const float*, int64_t, int64_t, const float*, float*, int64_t);

template <int vectors, int... rows>
Tile tile_of(int64_t count, std::integer_sequence<int, rows...>) {
  static constexpr Tile tiles[] = {multiply_tile<rows + 1, vectors>...};
  return tiles[count - 1];
}

// Multiplies one chunk of the input, [rows, at most kDepth] at `a`, with the weights from row `first_k` on, into the
// columns of c; after the last chunk `finish(row, rows, column, columns)` is told of each finished tile.
template <typename Finish>
void multiply(const float* a, int64_t rows, const Panels& w, int64_t first_k, const Rows& c, const Finish& finish) {
  const int64_t depth = std::min<int64_t>(kDepth, w.depth - first_k);
  const bool first = first_k == 0, last = first_k + depth == w.depth;
  const int64_t groups = ceil_div(rows, kTileRows), panel_size = w.depth * kPanel;
  constexpr int tile_columns = 2 * kWide;
  const int64_t padded = ceil_div(w.columns, kPanel) * kPanel;
  float spare[kTileRows * tile_columns];  // for a tile that sticks out of c
  for (int64_t column = 0; column < padded; column += tile_columns) {
    const bool half = padded - column < tile_columns;
    const int64_t columns = std::min<int64_t>(w.columns - column, tile_columns);
    const bool whole = columns == (half ? kWide : tile_columns);
    const float* const b = w.data + column / kPanel * panel_size + first_k * kPanel + column % kPanel;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t row = g * rows / groups, count = (g + 1) * rows / groups - row;
      float* const out = c.at(row, column);
      float* to = out;
      int64_t stride = c.stride;
      if (!whole) {
        to = spare, stride = tile_columns;
        for (int64_t r = 0; r < count && !first; ++r) std::copy_n(out + r * c.stride, columns, to + r * stride);
      }
      constexpr std::make_integer_sequence<int, kTileRows> counts{};
      const Tile tile = half ? tile_of<1>(count, counts) : tile_of<2>(count, counts);
      tile(a + row * kStride, b, depth, panel_size, first ? &w.bias[column] : nullptr, to, stride);
      for (int64_t r = 0; r < count && !whole; ++r) std::copy_n(to + r * stride, columns, out + r * c.stride);
      if (last) finish(row, count, column, columns);
    }
  }
}

}  // namespace internimage
