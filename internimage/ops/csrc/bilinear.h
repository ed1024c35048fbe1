// The bilinear sampling rule as the CUDA kernels follow it; points_cpu.h says the same of vectors of points.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define INTERNIMAGE_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define INTERNIMAGE_HOST_DEVICE __forceinline
#else
#define INTERNIMAGE_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace internimage {

INTERNIMAGE_HOST_DEVICE float floor_of(float x) { return floorf(x); }
INTERNIMAGE_HOST_DEVICE double floor_of(double x) { return floor(x); }

// The four neighbours of a sampling point. Suffix 0 is the lower coordinate (top row, left column), 1 the higher.
template <typename Real>
struct BilinearCell {
  using Mask = decltype(Real{} < Real{});

  Real y0, x0;           // integral; a point outside the window, or NaN, is moved to the pixel (0, 0)
  Real ly, lx;           // fractional parts in [0, 1): weights of the higher row and column
  Mask in_window;        // inside the open window (-1, H) x (-1, W); elsewhere the point contributes nothing
  Mask row0, row1;       // the row lies in the image (elsewhere is zero padding), and the point in the window
  Mask column0, column1; // likewise
};

// Locates the point (y, x), in pixels with integers at pixel centres, in an image of height x width pixels.
// At an integral coordinate the cell is the one to the right (floor), which fixes the one-sided derivative there.
template <typename Real>
INTERNIMAGE_HOST_DEVICE BilinearCell<Real> locate(Real y, Real x, Real height, Real width) {
  const Real zero{};
  const Real one = zero + 1.0f;
  BilinearCell<Real> cell;
  cell.in_window = (y > -one) & (y < height) & (x > -one) & (x < width);  // false for NaN
  y = cell.in_window ? y : zero;
  x = cell.in_window ? x : zero;
  cell.y0 = floor_of(y);
  cell.x0 = floor_of(x);
  cell.ly = y - cell.y0;
  cell.lx = x - cell.x0;
  cell.row0 = (cell.y0 >= zero) & cell.in_window;
  cell.row1 = (cell.y0 < height - one) & cell.in_window;
  cell.column0 = (cell.x0 >= zero) & cell.in_window;
  cell.column1 = (cell.x0 < width - one) & cell.in_window;
  return cell;
}

}  // namespace internimage
