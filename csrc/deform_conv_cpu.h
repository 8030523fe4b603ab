// Between deform_conv_cpu.cpp, which knows tensors and threads, and deform_conv_kernels.cpp, which knows neither and is
// compiled once for each instruction set.
//
// Layouts in scratch memory, all of the type T that is computed in:
//   segment   channels that share a deformable group and a group of the convolution, padded to `width` channels
//   plane     a segment's image in a border of zeros: (height + 3, width + 2, segment width), two rows of it above
//   columns   (pixels, columns): what each output pixel is multiplied with: segments, taps, channels of a segment
//   panels    a matrix (k, n) cut into strips of `panel` columns: (strips, k, panel)
#pragma once

#include <cstdint>

#include "deform_conv.h"

namespace vsr {

enum class Type : int32_t { f32, f64, bf16 };

// A tensor in memory: its type and its strides in elements. Output pixels are numbered row by row, so the rows of
// offset, mask, output and its gradient must follow each other without a gap.
struct View {
  void* data;
  Type type;
  Strides strides;
};

struct Segment {
  int64_t first, channels, width;
  int64_t deform_group, group;
  int64_t plane;   // widths of all segments before it
  int64_t column;  // widths of those of its group before it
  int64_t slot;    // number of those of its deformable group before it
};

struct Shape {
  Geometry geometry;
  int64_t columns;    // of one pixel in one group
  int64_t outputs;    // output channels of one group
  int64_t out_width;  // the same in whole vectors
  VSR_HD int64_t plane_size() const { return (geometry.height + 3) * (geometry.width + 2); }
};

constexpr int64_t kMostPixels = 60;    // of a tile
constexpr int64_t kMostChannels = 32;  // of a segment: more tasks for the threads of the backward pass

// Everything below works on one sample, b, and is called by many threads at once.
template <typename T>
struct Kernels {
  int64_t shortest;  // elements of the shortest vector: segments are padded to a multiple
  int64_t longest;   // of the longest: output channels are
  int64_t panel;     // columns of a strip: two of the longest

  void (*pack_plane)(const Shape&, const Segment&, const View& x, int64_t b, T* plane);
  void (*unpack_plane)(const Shape&, const Segment&, const T* plane, int64_t b, const View& grad_x);
  // weight (o, c / groups, taps) -> one strip of a group's (columns, out_width); those of a segment's (outputs,
  // taps * width).
  void (*pack_weight)(const Shape&, const Segment*, int64_t segments, const View& weight, int64_t group, int64_t strip,
                      T* packed);
  void (*pack_transposed)(const Shape&, const Segment&, const View& weight, T* packed);
  // Output pixels [first, last), at most kMostPixels of them.
  // Scratch: kMostPixels * (columns + out_width).
  void (*forward)(const Shape&, const Segment*, int64_t segments, const T* planes, const View& offset,
                  const View* mask, const T* weight, const View* bias, const View& out, int64_t b, int64_t first,
                  int64_t last, T* scratch);
  // Gradient of the output -> (pixels, out_width) of one group.
  void (*pack_grad)(const Shape&, int64_t group, const View& grad, int64_t b, int64_t first, int64_t last, T* packed);
  // One segment: adds to grad_plane and to grad_weight (taps * width, out_width), writes grad_offset and grad_mask.
  // Scratch: 2 * kMostPixels * (taps * width rounded up to a strip).
  void (*backward)(const Shape&, const Segment&, const T* plane, const T* grad, const View& offset, const View* mask,
                   const T* weight, T* grad_plane, const View& grad_offset, const View* grad_mask, T* grad_weight,
                   int64_t b, T* scratch);
};

VSR_HD int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Defined once for each instruction set.
template <typename T> const Kernels<T>& kernels_portable();
template <typename T> const Kernels<T>& kernels_avx2();
template <typename T> const Kernels<T>& kernels_avx512();

}  // namespace vsr
