// The sizes of one call of multi-scale deformable attention. Includes nothing of torch.
#pragma once

#include <cstdint>

namespace internimage {

struct Attention {
  int64_t n, pixels, heads, head_channels;  // value [n, pixels, heads, head_channels]
  int64_t queries, levels, points;          // locations [n, queries, heads, levels, points, 2]
  const int64_t* shapes;                    // height and width of each level in turn

  int64_t samples() const { return levels * points; }  // of one head for one query
  int64_t channels() const { return heads * head_channels; }
  int64_t height(int64_t level) const { return shapes[2 * level]; }
  int64_t width(int64_t level) const { return shapes[2 * level + 1]; }
  int64_t widest() const {
    int64_t widest = 0;
    for (int64_t level = 0; level < levels; ++level) widest = width(level) > widest ? width(level) : widest;
    return widest;
  }
};

}  // namespace internimage
