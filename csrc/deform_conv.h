// What every kernel of the modulated deformable convolution computes alike, on a CPU and on a GPU: where a tap reads,
// with which weights, and what the derivatives are. vsr/ops/deform_conv.py is the definition.
//
// Shapes: input (b, c, h, w), offset (b, 2 * dg * taps, y, x), mask (b, dg * taps, y, x), weight (o, c / groups, kh, kw),
// output (b, o, y, x); dg deformable groups, taps = kh * kw in row-major order.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define VSR_HD __host__ __device__ __forceinline__
#else
#define VSR_HD inline __attribute__((always_inline))
#endif

namespace vsr {

struct Geometry {
  int64_t batch, in_channels, height, width;
  int64_t out_channels, kernel_h, kernel_w, out_h, out_w;
  int64_t stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int64_t groups, deform_groups;

  VSR_HD int64_t taps() const { return kernel_h * kernel_w; }
  VSR_HD int64_t pixels() const { return out_h * out_w; }  // of one output channel
  // Channels of the offset that hold dy and dx of a tap, and the channel of the mask.
  VSR_HD int64_t offset_channel(int64_t group, int64_t tap) const { return 2 * (group * taps() + tap); }
  VSR_HD int64_t mask_channel(int64_t group, int64_t tap) const { return group * taps() + tap; }
  // Where tap (i, j) of output (row, column) reads without an offset, in pixels of the input.
  VSR_HD int64_t regular_y(int64_t row, int64_t i) const { return row * stride_h - padding_h + i * dilation_h; }
  VSR_HD int64_t regular_x(int64_t column, int64_t j) const { return column * stride_w - padding_w + j * dilation_w; }
};

// Strides of a (b, c, h, w) tensor, in elements.
struct Strides {
  int64_t batch, channel, row, column;

  VSR_HD int64_t at(int64_t b, int64_t c, int64_t y, int64_t x) const {
    return b * batch + c * channel + y * row + x * column;
  }
};

// A place between four pixels: (top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1).
template <typename T>
struct Place {
  int32_t top, left;  // from -1 to height - 1, to width - 1; outside: -2, -1, so that no pixel is of the image
  T down, right;      // the place's distances from the upper left pixel, in [0, 1]; 0 outside
  T inside;           // 1 within the open box (-1, height) x (-1, width), else 0
};

// A comparison with NaN is false, so such a place is outside; so is one that would overflow an int.
template <typename T>
VSR_HD Place<T> locate(T y, T x, T height, T width) {
  const bool inside = (y > T(-1)) & (x > T(-1)) & (y < height) & (x < width);
  y = inside ? y : T(-1);
  x = inside ? x : T(-1);
  // y + 1 >= 0, so the conversion, which truncates, is the floor; the sum may have been rounded up, hence the second
  // look.
  int32_t top = int32_t(y + T(1)) - 1;
  int32_t left = int32_t(x + T(1)) - 1;
  top -= T(top) > y;
  left -= T(left) > x;
  return {inside ? top : -2, left, y - T(top), x - T(left), inside ? T(1) : T(0)};
}

// Weights of the four pixels of a place, in its order.
template <typename T>
struct Corners {
  T v00, v01, v10, v11;
};

template <typename T>
VSR_HD Corners<T> bilinear(T down, T right) {
  const T up = T(1) - down, left = T(1) - right;
  return {up * left, up * right, down * left, down * right};
}

// Derivatives of the value at a place, from its four pixels' values (or from anything linear in them). Where the place
// is a whole number this is the derivative towards larger places.
template <typename T>
VSR_HD T along_y(const Corners<T>& v, T right) {
  return (v.v10 - v.v00) * (T(1) - right) + (v.v11 - v.v01) * right;
}

template <typename T>
VSR_HD T along_x(const Corners<T>& v, T down) {
  return (v.v01 - v.v00) * (T(1) - down) + (v.v11 - v.v10) * down;
}

}  // namespace vsr
