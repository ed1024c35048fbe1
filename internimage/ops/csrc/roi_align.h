// The sizes of one call of RoIAlign, and the places of its samples, as both devices compute them. Includes nothing of
// torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "bilinear.h"

namespace internimage {

struct RoIAlign {
  int64_t n, channels, height, width;  // input [n, channels, height, width]
  int64_t rois, rows, columns;         // output [rois, channels, rows, columns]
  double scale;
  int64_t sampling_ratio;  // 0: as many samples as a bin has pixels
  bool aligned;

  int64_t bins() const { return rows * columns; }
  int64_t pixels() const { return height * width; }
};

// A product that no compiler fuses with the sum behind it: a last digit can decide how many samples there are.
template <typename Real>
INTERNIMAGE_HOST_DEVICE Real product(Real a, Real b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(Real) == 8) {
    return __dmul_rn(a, b);
  } else {
    return __fmul_rn(a, b);
  }
#else
  volatile Real rounded = a * b;
  return rounded;
#endif
}

INTERNIMAGE_HOST_DEVICE float ceil_of(float x) { return ceilf(x); }
INTERNIMAGE_HOST_DEVICE double ceil_of(double x) { return ceil(x); }

// The samples of a RoI's bins along one axis of the map.
template <typename Real>
struct SampleAxis {
  Real begin, bin, count, size;  // where the RoI begins; length of a bin, and its samples; pixels of the map

  INTERNIMAGE_HOST_DEVICE SampleAxis(Real from, Real to, Real scale, bool aligned, int sampling_ratio, int64_t bins,
                                     int64_t size)
      : begin(product(from, scale) - (aligned ? Real(0.5f) : Real(0))), size(Real(size)) {
    Real length = product(to, scale) - (aligned ? Real(0.5f) : Real(0)) - begin;
    if (!aligned && length < Real(1)) length = 1;
    bin = length / Real(bins);
    count = sampling_ratio > 0 ? Real(sampling_ratio) : ceil_of(bin);
    if (!(count > Real(0) && count <= Real(1e30f))) count = 0;  // no samples of what is not finite
  }

  // The samples that can lie in the map are those from `first` to before `last`; others may be among them.
  struct Range {
    int64_t first, last;
  };
  INTERNIMAGE_HOST_DEVICE Range within(int64_t number) const {
    const Real step = bin / count, start = begin + product(Real(number), bin);
    Real first = (-start - Real(1)) / step - Real(2), last = (size - start) / step + Real(2);
    if (step < Real(0)) {
      const Real swapped = last - Real(4);
      last = first + Real(4), first = swapped;
    }
    if (!(first > Real(0))) first = 0;     // also where step is 0
    if (!(last < count)) last = count;
    if (!(first < last) || first > Real(9e15f) || last > Real(9e15f)) return {0, 0};
    return {int64_t(first), int64_t(ceil_of(last))};
  }

  INTERNIMAGE_HOST_DEVICE Real place(int64_t number, int64_t sample) const {
    return begin + product(Real(number), bin) + (Real(sample) + Real(0.5f)) * bin / count;
  }
};

// What a sample takes from the map along one axis: of the pixel `first` and of the next one, which may lie behind the
// last pixel where it counts nothing.
template <typename Real>
struct SamplePixels {
  int64_t first;
  Real here, next;
  bool in_map;

  INTERNIMAGE_HOST_DEVICE SamplePixels(Real place, Real size) {
    in_map = place >= Real(-1) && place <= size;  // false for NaN
    place = in_map && place > Real(0) ? place : Real(0);
    if (place > size - Real(1)) place = size - Real(1);
    first = int64_t(place);
    next = place - Real(first);
    here = Real(1) - next;
  }
};

// Number of the image that a RoI names, or -1 where there is none.
template <typename Real>
INTERNIMAGE_HOST_DEVICE int64_t image_of_roi(Real index, int64_t n) {
  return index > Real(-1) && index < Real(n) ? int64_t(index) : -1;
}

}  // namespace internimage
