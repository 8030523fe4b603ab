// What the CUDA kernels of the deformable convolution share: where the taps of a tile read, and the columns there.
#pragma once

#include "deform_conv_block.h"

namespace vsr::cuda {

// What every kernel reads.
struct Inputs {
  Problem problem;
  Tiling tiling;
  int32_t offset_groups;  // the most of any chunk: what shared memory is laid out for
  Scalar offset_type, mask_type;
  const void* image;  // channels last, (b, h, w, c)
  const void* offset;
  const void* mask;  // or null
  Strides offset_strides, mask_strides;
};

// A tap of one deformable group at one output pixel, as it lies in shared memory.
struct alignas(16) Tap {
  int64_t base;     // number of the upper left of its four pixels; it may lie outside
  int32_t corners;  // bit n: corner n lies in the image, in the order of Corners
  float mask;
  float number[4];  // weights of the corners times the mask; or the place's distances down and right
};
static_assert(sizeof(Pixel) == 16 && sizeof(Tap) == 32);

VSR_DEVICE Tap& stored_tap(char* taps, int pixel, int offset_groups, int local) {
  return *reinterpret_cast<Tap*>(taps + tap_at(pixel, offset_groups, local));
}

template <bool kWeights>  // or down and right
VSR_DEVICE Tap find_tap(const Inputs& in, const Pixel& pixel, const Chunk& chunk, int32_t group) {
  Tap tap{0, 0, 0, {0, 0, 0, 0}};
  if (!pixel.inside) return tap;
  const Geometry& g = in.problem.g;
  const int64_t channel = g.offset_channel(group, chunk.tap);
  const int64_t at = in.offset_strides.at(pixel.batch, channel, pixel.row, pixel.column);
  const float dy = read(in.offset, at, in.offset_type);
  const float dx = read(in.offset, at + in.offset_strides.channel, in.offset_type);
  tap.mask = 1;
  if (in.mask) {
    const int64_t mask_channel = g.mask_channel(group, chunk.tap);
    tap.mask = read(in.mask, in.mask_strides.at(pixel.batch, mask_channel, pixel.row, pixel.column), in.mask_type);
  }
  const Place<float> place = locate(float(g.regular_y(pixel.row, chunk.i)) + dy,
                                    float(g.regular_x(pixel.column, chunk.j)) + dx, float(g.height), float(g.width));
  tap.base = image_pixel(g, pixel.batch, place.top, place.left);
  if (place.inside != 0) {
    const bool top = place.top >= 0, bottom = place.top + 1 < g.height;
    const bool left = place.left >= 0, right = place.left + 1 < g.width;
    tap.corners = (top && left) | (top && right) << 1 | (bottom && left) << 2 | (bottom && right) << 3;
  }
  if constexpr (kWeights) {
    const Corners<float> w = bilinear(place.down, place.right);
    tap.number[0] = w.v00 * tap.mask;
    tap.number[1] = w.v01 * tap.mask;
    tap.number[2] = w.v10 * tap.mask;
    tap.number[3] = w.v11 * tap.mask;
  } else {
    tap.number[0] = place.down;
    tap.number[1] = place.right;
  }
  return tap;
}

VSR_DEVICE void find_pixels(int thread, const Inputs& in, int64_t tile, int count, Pixel* pixels) {
  for (int i = thread; i < count; i += kThreads) pixels[i] = pixel_of(in.problem.g, in.tiling, tile, i);
}

// Once for each deformable group of the chunk, not for each of its channels. Neighbouring threads take neighbouring
// pixels: so offsets are read.
template <int kPixels, bool kWeights>
VSR_DEVICE void find_taps(int thread, const Inputs& in, const Chunk& chunk, const Pixel* pixels, char* taps) {
  for (int i = thread; i < kPixels * chunk.offset_groups; i += kThreads) {
    const int pixel = i % kPixels, local = i / kPixels;
    stored_tap(taps, pixel, in.offset_groups, local) =
        find_tap<kWeights>(in, pixels[pixel], chunk, chunk.first_offset_group + local);
  }
}

// Read kVector neighbouring channels of the four pixels of a tap, zeros outside the image.
// `step` is the distance of two pixels of a row, `line` that of two rows, in elements.
template <int kVector, typename Element>
VSR_DEVICE void read_corners(const Element* first, int64_t step, int64_t line, int32_t corners,
                             Vector<Element, kVector> (&v)[4]) {
  VSR_UNROLL
  for (int n = 0; n < 4; ++n) {
    v[n] = Vector<Element, kVector>{};
    if (corners >> n & 1) v[n] = load<kVector>(first + (n % 2) * step + (n / 2) * line);
  }
}

// The columns (kPixels, kWidth) of a chunk, kVector channels at a time. Neighbouring threads take neighbouring
// channels of a pixel: eight of float32 are one sector of memory, and the chunk is one cache line. In an image with
// its channels apart each of them would be a sector of its own, unless neighbouring outputs happen to read
// neighbouring pixels; so an image that is not channels last is copied first, which costs one pass of reading and
// writing it against the 36 reads of each pixel that a 3 x 3 kernel makes.
template <typename Math, int kPixels, int kWidth, int kVector>
VSR_DEVICE void sample(int thread, const Inputs& in, const Chunk& chunk, char* taps,
                       typename Math::Element* columns) {
  using Element = typename Math::Element;
  constexpr int kVectors = kWidth / kVector, kStep = kThreads / kVectors;
  constexpr int kRow = row_length<sizeof(Element)>(kWidth);
  static_assert(kThreads % kVectors == 0 && kPixels % kStep == 0);
  const Problem& p = in.problem;
  const int channel = thread % kVectors * kVector;
  const bool used = channel < chunk.channels;
  const int local = used ? (chunk.first + channel) / p.offset_in - chunk.first_offset_group : 0;
  const Element* image = static_cast<const Element*>(in.image) + chunk.first + channel;
  const int64_t step = p.g.in_channels, line = p.g.width * step;
  VSR_UNROLL_BY(2)  // eight reads under way
  for (int n = 0; n < kPixels / kStep; ++n) {
    const int pixel = thread / kVectors + n * kStep;
    Vector<Element, kVector> out{};  // zeros where the chunk is padded: memory may hold NaN, and 0 * NaN is not 0
    if (used) {
      const Tap tap = stored_tap(taps, pixel, in.offset_groups, local);
      Vector<Element, kVector> v[4];
      read_corners(image + tap.base * step, step, line, tap.corners, v);
      VSR_UNROLL
      for (int c = 0; c < kVector; ++c) {
        float sum = 0;
        VSR_UNROLL
        for (int corner = 0; corner < 4; ++corner) sum += to_float(v[corner].at[c]) * tap.number[corner];
        out.at[c] = Math::make(sum);
      }
    }
    vector_at<kVector>(columns + pixel * kRow + channel) = out;
  }
}

// Copy a matrix (rows, columns) of whole 16 bytes from global to shared memory, behind the scenes: `finish_copies`
// waits for it.
template <int kColumns, typename Element>
VSR_DEVICE void copy_matrix(int thread, const Element* from, int64_t from_row, int rows, Element* to) {
  constexpr int kVector = 16 / sizeof(Element), kVectors = kColumns / kVector;
  for (int i = thread; i < rows * kVectors; i += kThreads) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    copy_16_bytes(to + row * row_length<sizeof(Element)>(kColumns) + column, from + row * from_row + column);
  }
}

// The output, or its gradient. Neighbouring threads take neighbouring pixels, or channels where these are neighbours in
// memory.
struct Output {
  void* data;
  Strides strides;
  int32_t channels_last;
};

// Visit (pixel, channel) of a tile, each by one thread.
template <int kPixels, typename F>
VSR_DEVICE void each_output(int thread, int channels, int32_t channels_last, F f) {
  for (int i = thread; i < channels * kPixels; i += kThreads) {
    if (channels_last) {
      f(i / channels, i % channels);
    } else {
      f(i % kPixels, i / kPixels);
    }
  }
}

// The gradient of the output (outputs, kGradientPixels) from an output channel of a group on; zeros beyond the group's
// last channel and beyond the edges.
template <typename Math>
VSR_DEVICE void read_gradient(int thread, const Problem& p, const Output& grad, const Pixel* pixels, int group,
                              int first, int outputs, typename Math::Element* to) {
  using Element = typename Math::Element;
  each_output<kGradientPixels>(thread, outputs, grad.channels_last, [&](int pixel, int out) {
    const Pixel& at = pixels[pixel];
    float v = 0;
    if (at.inside && first + out < p.group_out) {
      const int64_t channel = int64_t(group) * p.group_out + first + out;
      v = to_float(static_cast<const Element*>(grad.data)[grad.strides.at(at.batch, channel, at.row, at.column)]);
    }
    to[out * row_length<sizeof(Element)>(kGradientPixels) + pixel] = Math::make(v);
  });
}

}  // namespace vsr::cuda
