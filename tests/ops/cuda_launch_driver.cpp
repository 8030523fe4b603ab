// The arithmetic of csrc/deform_conv_launch.h for test_cuda_source.py.
#include <cstring>

#include "deform_conv_launch.h"

using namespace vsr::cuda;

static_assert(sizeof(vsr::Geometry) == 17 * sizeof(int64_t));

static vsr::Geometry geometry(const int64_t* numbers) {
  vsr::Geometry g;
  std::memcpy(&g, numbers, sizeof(g));
  return g;
}

extern "C" {

int64_t tiles(const int64_t* g, int pixels) { return tile_outputs(geometry(g), pixels).count; }

// batch, row, column, inside
void pixel(const int64_t* g, int pixels, int64_t tile, int i, int64_t* out) {
  const Pixel p = pixel_of(geometry(g), tile_outputs(geometry(g), pixels), tile, i);
  out[0] = p.batch, out[1] = p.row, out[2] = p.column, out[3] = p.inside;
}

int64_t at_image(const int64_t* g, int64_t b, int64_t y, int64_t x) { return image_pixel(geometry(g), b, y, x); }
int64_t at_offset(const int64_t* g, int64_t b, int64_t c, int64_t y, int64_t x) {
  return offset_at(geometry(g), b, c, y, x);
}
int64_t at_mask(const int64_t* g, int64_t b, int64_t c, int64_t y, int64_t x) { return mask_at(geometry(g), b, c, y, x); }
int64_t at_weight(const int64_t* g, int64_t group, int64_t out, int64_t in, int64_t tap) {
  return weight_at(make_problem(geometry(g), 32), group, out, in, tap);
}
int64_t at_strides(const int64_t* strides, int64_t b, int64_t c, int64_t y, int64_t x) {
  return vsr::Strides{strides[0], strides[1], strides[2], strides[3]}.at(b, c, y, x);
}
int64_t share(int64_t n, int64_t shares, int64_t s) { return share_begin(n, shares, s); }

int64_t parts(const int64_t* g, int width) { return make_problem(geometry(g), width).parts; }

// i, j, first, channels, first_offset_group, offset_groups
void chunk(const int64_t* g, int width, int tap, int group, int part, int64_t* out) {
  const Chunk c = chunk_at(make_problem(geometry(g), width), tap, group, part);
  out[0] = c.i, out[1] = c.j, out[2] = c.first, out[3] = c.channels, out[4] = c.first_offset_group;
  out[5] = c.offset_groups;
}

// pixels, outputs, width, offset groups, blocks, bytes of shared memory
void forward(const int64_t* g, int bytes, int processors, int64_t* out) {
  const ForwardPlan p = plan_forward(geometry(g), bytes, processors);
  const auto shared = bytes == 4 ? forward_shared<4> : forward_shared<2>;
  out[0] = p.pixels, out[1] = p.outputs, out[2] = p.problem.width, out[3] = p.offset_groups, out[4] = p.blocks;
  out[5] = int64_t(shared(p.pixels, p.outputs, p.problem.width, p.offset_groups).bytes);
}

// blocks and bytes of shared memory of the data gradient, then of the weight gradient; bytes of partial sums; shares of
// the taps, shares of the pixels, tiles
void backward(const int64_t* g, int bytes, int processors, int64_t* out) {
  const BackwardPlan p = plan_backward(geometry(g), bytes, processors);
  const auto data = bytes == 4 ? data_shared<4> : data_shared<2>;
  const auto weight = bytes == 4 ? weight_shared<4> : weight_shared<2>;
  out[0] = p.data_blocks, out[1] = int64_t(data(p.problem.width, p.offset_groups, p.slice).bytes);
  out[2] = p.weight_blocks, out[3] = int64_t(weight(p.problem.width, p.offset_groups).bytes);
  out[4] = p.shares * p.partial.size(p.problem) * 4;
  out[5] = p.tap_shares, out[6] = p.shares, out[7] = p.tiling.count;
}
}
