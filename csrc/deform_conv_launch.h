// How the CUDA kernels of the deformable convolution cut their work: tiles, chunks, places in memory, bytes of shared
// memory, numbers of blocks. Plain C++, so that a machine without a GPU can check it.
//
// A tile is a rectangle of output pixels, 16 wide. A chunk is what is sampled and multiplied at a time: one kernel tap
// and `width` neighbouring input channels of one convolution group. Neither grows with the size of the kernel, so
// shared memory is bounded for every shape.
#pragma once

#include <algorithm>
#include <cstddef>

#include "deform_conv.h"

namespace vsr::cuda {

constexpr int kThreads = 128;         // of every block
constexpr int kTileColumns = 16;      // 64 bytes of a float32 plane
constexpr int kWideChunk = 32;        // channels, where 16 bytes of channels are read at once
constexpr int kNarrowChunk = 16;      // where the channels of an offset group are not whole vectors: read one by one
constexpr int kGradientPixels = 64;   // tile of the backward kernels
constexpr int kGradientOutputs = 64;  // output channels of a block of the weight gradient
constexpr int kMaxSlice = 128;        // output channels that the data gradient holds at a time
constexpr int kBlocksPerProcessor = 4;
constexpr int64_t kMaxBlocks = 2147483647;      // of gridDim.x
constexpr int64_t kMaxPartialBytes = 16 << 20;  // of the partial sums of the weight gradient

VSR_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
VSR_HD int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// The sizes that the inner loops divide by, in 32 bits.
struct Problem {
  Geometry g;
  int32_t taps;
  int32_t group_in, group_out;  // channels of a convolution group
  int32_t offset_in;            // input channels of a deformable group
  int32_t width;                // of a chunk
  int32_t parts;                // chunks that cover the channels of a convolution group
};

inline Problem make_problem(const Geometry& g, int width) {
  Problem p{g, int32_t(g.taps()), int32_t(g.in_channels / g.groups), int32_t(g.out_channels / g.groups),
            int32_t(g.in_channels / g.deform_groups), width, 0};
  p.parts = int32_t(divide_up(p.group_in, width));
  return p;
}

struct Chunk {
  int32_t tap, i, j;                           // i, j: row and column of the tap
  int32_t group, part;                         // of the convolution
  int32_t first, channels;                     // first input channel (of all), and how many; < width in a last part
  int32_t first_offset_group, offset_groups;   // that its channels belong to
};

VSR_HD Chunk chunk_at(const Problem& p, int32_t tap, int32_t group, int32_t part) {
  Chunk c;
  c.tap = tap;
  c.i = tap / int32_t(p.g.kernel_w);
  c.j = tap - c.i * int32_t(p.g.kernel_w);
  c.group = group;
  c.part = part;
  c.first = group * p.group_in + part * p.width;
  const int32_t left = p.group_in - part * p.width;
  c.channels = left < p.width ? left : p.width;
  c.first_offset_group = c.first / p.offset_in;
  c.offset_groups = (c.first + c.channels - 1) / p.offset_in - c.first_offset_group + 1;
  return c;
}

// The most deformable groups that a chunk touches.
inline int most_offset_groups(const Problem& p) {
  int most = 1;
  for (int32_t group = 0; group < p.g.groups; ++group)
    for (int32_t part = 0; part < p.parts; ++part) most = std::max(most, chunk_at(p, 0, group, part).offset_groups);
  return most;
}

struct Tiling {
  int32_t rows;  // of a tile
  int64_t down, across, count;
};

inline Tiling tile_outputs(const Geometry& g, int pixels) {
  const int rows = pixels / kTileColumns;
  const int64_t down = divide_up(g.out_h, rows), across = divide_up(g.out_w, kTileColumns);
  return {rows, down, across, g.batch * down * across};
}

struct alignas(16) Pixel {
  int32_t batch, row, column;
  int32_t inside;  // 0: the tile hangs over the edge here
};

VSR_HD Pixel pixel_of(const Geometry& g, const Tiling& t, int64_t tile, int i) {
  const int64_t line = tile / t.across;
  const int64_t row = line % t.down * t.rows + i / kTileColumns;
  const int64_t column = tile % t.across * kTileColumns + i % kTileColumns;
  return {int32_t(line / t.down), int32_t(row), int32_t(column), row < g.out_h && column < g.out_w};
}

// Where things lie, in elements. (What comes from outside has Strides.)
VSR_HD int64_t image_pixel(const Geometry& g, int64_t batch, int64_t y, int64_t x) {  // of a channels-last image: * c
  return (batch * g.height + y) * g.width + x;
}
VSR_HD int64_t offset_at(const Geometry& g, int64_t batch, int64_t channel, int64_t row, int64_t column) {
  return ((batch * 2 * g.deform_groups * g.taps() + channel) * g.out_h + row) * g.out_w + column;
}
VSR_HD int64_t mask_at(const Geometry& g, int64_t batch, int64_t channel, int64_t row, int64_t column) {
  return ((batch * g.deform_groups * g.taps() + channel) * g.out_h + row) * g.out_w + column;
}
VSR_HD int64_t weight_at(const Problem& p, int64_t group, int64_t out, int64_t in, int64_t tap) {
  return ((group * p.group_out + out) * p.group_in + in) * p.taps + tap;
}

// Weights as the kernels read them: a matrix for each group and tap, padded with zeros to whole tiles.
struct Packing {
  int64_t rows, columns;
  VSR_HD int64_t matrix(const Problem& p, int64_t group, int64_t tap) const {
    return (group * p.taps + tap) * rows * columns;
  }
  VSR_HD int64_t size(const Problem& p) const { return p.g.groups * p.taps * rows * columns; }
};

// Parts of shared memory start at multiples of 128 bytes, and a row of a matrix is 16 bytes longer than its elements:
// eight threads that read 16 bytes each from neighbouring rows then meet no bank twice, and each tile of a matrix that
// a tensor core reads starts at a multiple of 32 bytes, as it must (8 rows are 128 bytes, or a multiple).
struct Shared {
  size_t bytes = 0;
  VSR_HD size_t take(size_t n) {
    const size_t at = bytes;
    bytes += (n + 127) / 128 * 128;
    return at;
  }
};

template <int kBytes>
VSR_HD constexpr int row_length(int elements) {
  return elements + 16 / kBytes;
}

// Taps lie pixel by pixel, 32 bytes each, and 16 bytes more between pixels, for the same reason.
VSR_HD size_t tap_bytes(int pixels, int offset_groups) { return size_t(pixels) * (2 * offset_groups + 1) * 16; }
VSR_HD size_t tap_at(int pixel, int offset_groups, int local) {
  return (size_t(pixel) * (2 * offset_groups + 1) + 2 * local) * 16;
}

struct ForwardShared {
  size_t pixels, taps[2], columns[2], weight[2], out, bytes;
};

template <int kBytes>
VSR_HD ForwardShared forward_shared(int pixels, int outputs, int width, int offset_groups) {
  Shared s;
  ForwardShared f;
  f.pixels = s.take(pixels * sizeof(Pixel));
  f.out = s.bytes;  // used when the rest no longer is
  for (int i = 0; i < 2; ++i) {
    f.taps[i] = s.take(tap_bytes(pixels, offset_groups));
    f.columns[i] = s.take(size_t(pixels) * row_length<kBytes>(width) * kBytes);
    f.weight[i] = s.take(size_t(width) * row_length<kBytes>(outputs) * kBytes);
  }
  const size_t out = f.out + size_t(outputs) * row_length<4>(pixels) * 4;
  f.bytes = s.bytes < out ? out : s.bytes;
  return f;
}

struct DataShared {
  size_t pixels, taps, grad, weight, columns, carry[2], bytes;
};

template <int kBytes>
VSR_HD DataShared data_shared(int width, int offset_groups, int slice) {
  Shared s;
  DataShared d;
  d.pixels = s.take(kGradientPixels * sizeof(Pixel));
  d.taps = s.take(tap_bytes(kGradientPixels, offset_groups));
  d.grad = s.take(size_t(slice) * row_length<kBytes>(kGradientPixels) * kBytes);
  d.weight = s.take(size_t(slice) * row_length<kBytes>(width) * kBytes);
  d.columns = s.take(size_t(kGradientPixels) * row_length<4>(width) * 4);
  for (size_t& carry : d.carry) carry = s.take(kGradientPixels * 16);
  d.bytes = s.bytes;
  return d;
}

struct WeightShared {
  size_t pixels, taps, grad, columns, bytes;
};

template <int kBytes>
VSR_HD WeightShared weight_shared(int width, int offset_groups) {
  Shared s;
  WeightShared w;
  w.pixels = s.take(kGradientPixels * sizeof(Pixel));
  w.taps = s.take(tap_bytes(kGradientPixels, offset_groups));
  w.grad = s.take(size_t(kGradientOutputs) * row_length<kBytes>(kGradientPixels) * kBytes);
  w.columns = s.take(size_t(kGradientPixels) * row_length<kBytes>(width) * kBytes);
  w.bytes = s.bytes;
  return w;
}

// Whether 16 bytes of channels always belong to one group of each kind.
inline bool whole_vectors(const Geometry& g, int bytes) {
  const int64_t vector = 16 / bytes;
  return g.in_channels / g.groups % vector == 0 && g.in_channels / g.deform_groups % vector == 0;
}

struct ForwardPlan {
  bool vectors;
  int pixels, outputs;  // of a tile: 32 x 64, 64 x 64 or 64 x 128
  int offset_groups;
  int64_t out_tiles;  // of a convolution group
  Problem problem;
  Tiling tiling;
  Packing packing;  // rows: input channels, columns: output channels
  int64_t blocks;
};

// Small tiles where larger ones would leave processors idle; 128 output channels, which are sampled once instead of
// twice, where there are that many and enough blocks.
inline ForwardPlan plan_forward(const Geometry& g, int bytes, int processors) {
  ForwardPlan f{};
  f.vectors = whole_vectors(g, bytes);
  f.problem = make_problem(g, f.vectors ? kWideChunk : kNarrowChunk);
  f.offset_groups = most_offset_groups(f.problem);
  f.pixels = 64;
  f.outputs = 64;
  const auto blocks = [&](int pixels, int outputs) {
    return tile_outputs(g, pixels).count * g.groups * divide_up(f.problem.group_out, outputs);
  };
  if (f.vectors && f.problem.group_out > 64 && blocks(64, 128) >= 2 * processors) f.outputs = 128;
  if (f.vectors && blocks(64, 64) < 2 * processors) f.pixels = 32;
  f.tiling = tile_outputs(g, f.pixels);
  f.out_tiles = divide_up(f.problem.group_out, f.outputs);
  f.packing = {int64_t(f.problem.parts) * f.problem.width, f.out_tiles * f.outputs};
  f.blocks = blocks(f.pixels, f.outputs);
  return f;
}

struct BackwardPlan {
  bool vectors;
  int offset_groups;
  Problem problem;
  Tiling tiling;
  // Gradients of input, offset and mask: a block takes a tile and a share of the taps.
  int slice, slices;  // output channels at a time
  int tap_shares;
  Packing packing;  // rows: output channels, columns: input channels
  int64_t data_blocks;
  // Gradient of the weight: a block takes a chunk, a tile of output channels and a share of the pixels' tiles.
  int64_t out_tiles, shares;
  Packing partial;  // rows: input channels, columns: output channels
  int64_t weight_blocks;
};

inline BackwardPlan plan_backward(const Geometry& g, int bytes, int processors) {
  BackwardPlan b{};
  b.vectors = whole_vectors(g, bytes);
  b.problem = make_problem(g, b.vectors ? kWideChunk : kNarrowChunk);
  b.offset_groups = most_offset_groups(b.problem);
  b.tiling = tile_outputs(g, kGradientPixels);
  const Problem& p = b.problem;
  const int64_t wanted = int64_t(kBlocksPerProcessor) * processors;

  b.slice = int(std::min<int64_t>(kMaxSlice, round_up(p.group_out, 16)));
  b.slices = int(divide_up(p.group_out, b.slice));
  b.packing = {int64_t(b.slice) * b.slices, int64_t(p.parts) * p.width};
  b.tap_shares = int(std::clamp<int64_t>(divide_up(wanted, std::max<int64_t>(1, b.tiling.count)), 1, p.taps));
  b.data_blocks = b.tiling.count * b.tap_shares;

  b.out_tiles = divide_up(p.group_out, kGradientOutputs);
  b.partial = {int64_t(p.parts) * p.width, b.out_tiles * kGradientOutputs};
  const int64_t chunks = g.groups * p.taps * p.parts * b.out_tiles;
  const int64_t room = std::max<int64_t>(1, kMaxPartialBytes / (4 * b.partial.size(p)));
  b.shares = std::clamp<int64_t>(divide_up(wanted, chunks), 1, std::min(room, std::max<int64_t>(1, b.tiling.count)));
  b.weight_blocks = chunks * b.shares;
  return b;
}

// Share s of n things begins here, and ends where share s + 1 begins.
VSR_HD int64_t share_begin(int64_t n, int64_t shares, int64_t s) {
  return n / shares * s + (s < n % shares ? s : n % shares);
}

}  // namespace vsr::cuda
