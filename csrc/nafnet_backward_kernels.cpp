// The backward kernels of NAFNet's block on the CPU, compiled once for each instruction set: see nafnet_block.h.
//
// A tile of pixels goes back through gate, 1x1 convolutions and norm while it stays in the cache; what it adds to the
// gradients of the weights goes to the sums of its run, so nothing depends on which thread takes which run.

#include "nafnet_block.h"

namespace vsr {
namespace naf {
namespace {

VSR_INLINE void add_to(float* sum, Vector v) { store(sum, load(sum) + v); }

// ---- gradients of weights ----

// Exchanges lanes of pairs of vectors until rows are columns.
template <int kApart, int... I>
VSR_INLINE void turn_block(Vector (&v)[kLanes], Lanes<I...> every) {
  if constexpr (kApart < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & kApart) continue;
      const Vector a = v[i], b = v[i + kApart];
      v[i] = pick(a, b, Lanes<(I & kApart ? kLanes + I - kApart : I)...>{});
      v[i + kApart] = pick(a, b, Lanes<(I & kApart ? kLanes + I : I + kApart)...>{});
    }
    turn_block<2 * kApart>(v, every);
  }
}

// Strips (channels, kStrip) of a tile -> panels of kStrip channels, (kTile, kStrip) each; zeros after the last channel.
void turn(int64_t channels, int64_t strips, const float* from, float* panels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    float* to = panels + c / kStrip * kStrip * kTile + c % kStrip;
    for (int64_t s = 0; s < strips; ++s) {
      for (int j = 0; j < 2; ++j) {
        Vector block[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          block[i] = c + i < channels ? load(from + (s * channels + c + i) * kStrip + j * kLanes) : Vector{};
        turn_block<1>(block, EveryLane{});
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + (s * kStrip + j * kLanes + i) * kStrip, block[i]);
      }
    }
  }
}

// sums (rows, columns) += the products, summed over a tile's pixels, of rows in strips and columns in panels.
void add_outer(int64_t rows, int64_t columns, int64_t strips, const float* of_rows, const float* panels, float* sums) {
  in_shares(rows, kTile, (columns + kStrip - 1) / kStrip, [&](int64_t begin, int64_t end, int64_t p) VSR_STAGE {
    const float* panel = panels + p * kStrip * kTile;
    const int64_t some = columns - p * kStrip;
    in_blocks<kRows>(begin, end, [&](int64_t first, int64_t number) VSR_LAMBDA {
      with_constant<kRows>(number, [&]<int M>() VSR_LAMBDA {
        Vector sum[M][2] = {};
        float* to = sums + first * columns + p * kStrip;
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) __builtin_prefetch(to + i * columns, 1);
        for (int64_t s = 0; s < strips; ++s) {
          const float *at[M], *block = of_rows + (s * rows + first) * kStrip;
#pragma GCC unroll 16
          for (int i = 0; i < M; ++i) {
            at[i] = block + i * kStrip;
            __builtin_prefetch(at[i] + rows * kStrip);
          }
          multiply<M>(kStrip, at, panel + s * kStrip * kStrip, sum);
        }
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
          Vector low, high;
          load_some(to + i * columns, low, high, some);
          store_some(to + i * columns, low + sum[i][0], high + sum[i][1], some);
        }
      });
    });
  });
}

// Adds each channel of a tile up: sums (channels, kLanes).
void add_channels(int64_t channels, int64_t strips, const float* from, float* sums) {
  for (int64_t s = 0; s < strips; ++s)
    for (int64_t c = 0; c < channels; ++c, from += kStrip) add_to(sums + c * kLanes, load(from) + load(from + kLanes));
}

// ---- norm ----

// One strip: value becomes the norm's output, and the gradient of that the one of the norm's input, plus `added`, if
// there is one. Sums: (channels, 2, kLanes), of the gradients of weight and bias.
void normalise_back(const Norm& norm, int64_t channels, float* value, float* grad, const float* added, float* sums) {
  const Vector number = all(float(channels));
  Vector mean[2] = {}, root[2] = {}, flat[2] = {}, steep[2] = {};
  for (int64_t c = 0; c < channels; ++c)
    for (int j = 0; j < 2; ++j) mean[j] += load(value + c * kStrip + j * kLanes);
  for (int j = 0; j < 2; ++j) mean[j] /= number;
  for (int64_t c = 0; c < channels; ++c) {
    for (int j = 0; j < 2; ++j) {
      const Vector difference = load(value + c * kStrip + j * kLanes) - mean[j];
      const Vector weighted = load(grad + c * kStrip + j * kLanes) * norm.weight[c];
      root[j] += difference * difference;
      flat[j] += weighted;
      steep[j] += weighted * difference;
    }
  }
  for (int j = 0; j < 2; ++j) {
    root[j] = inverse_root(root[j] / number + norm.eps);
    flat[j] /= number;
    steep[j] *= root[j] / number;
  }
  for (int64_t c = 0; c < channels; ++c) {
    Vector by_weight = {}, by_bias = {};
    for (int j = 0; j < 2; ++j) {
      float *at = value + c * kStrip + j * kLanes, *to = grad + c * kStrip + j * kLanes;
      const Vector own = load(to), normal = (load(at) - mean[j]) * root[j];
      const Vector more = added ? load(added + c * kStrip + j * kLanes) : Vector{};
      store(at, normal * norm.weight[c] + norm.bias[c]);
      store(to, more + root[j] * (own * norm.weight[c] - flat[j] - normal * steep[j]));
      by_weight += own * normal;
      by_bias += own;
    }
    add_to(sums + 2 * c * kLanes, by_weight);
    add_to(sums + (2 * c + 1) * kLanes, by_bias);
  }
}

// Strips of a tile on their way back: c channels each but `wide`, which has 2c.
struct Tile {
  float *value, *grads, *wide, *panels;
};

// From the gradients in tile.wide to those of the norm's input, in tile.grads; tile.value holds that input. Adds to the
// gradient of the matrix, outer (2c, c), and to the sums of the norm.
void unwiden(int64_t c, const Norm& norm, const float* turned, const Tile& tile, int64_t strips, const float* added,
             float* outer, float* norm_sums) {
  const Matrix matrix{turned, nullptr};
  in_shares(c, 2 * c, strips, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
    float* to = tile.grads + s * c * kStrip;
    const float* from = tile.wide + 2 * s * c * kStrip;
    product(matrix, begin, end, 2 * c, from, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
      store(to + row * kStrip, low);
      store(to + row * kStrip + kLanes, high);
    });
  });
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t at = s * c * kStrip;
    normalise_back(norm, c, tile.value + at, tile.grads + at, added ? added + at : nullptr, norm_sums);
  }
  turn(c, strips, tile.value, tile.panels);
  add_outer(2 * c, c, strips, tile.wide, tile.panels, outer);
}

int64_t panels_size(int64_t channels) { return (channels + kStrip - 1) / kStrip * kStrip * kTile; }

void add_lanes(int64_t number, int64_t step, const float* lanes, float* sums) {
  for (int64_t i = 0; i < number; ++i) sums[i] = sum_of(load(lanes + i * step * kLanes));
}

// ---- feed ----

int64_t feed_back_scratch(int64_t c) { return 5 * c * kTile + panels_size(c) + 7 * c * kLanes; }

void feed_back(const FeedBack& feed, const FeedImages& image, int64_t first, int64_t last, float* sums,
               float* scratch) {
  const int64_t c = feed.channels, step = feed.pixels;
  float *behind = scratch, *strips_of = behind + c * kTile, *lanes = strips_of + 4 * c * kTile + panels_size(c);
  const Tile tile{strips_of, strips_of + c * kTile, strips_of + 2 * c * kTile, strips_of + 4 * c * kTile};
  float *by_last = lanes, *by_narrow = lanes + c * kLanes, *by_wide = lanes + 2 * c * kLanes;
  float *by_norm = lanes + 4 * c * kLanes, *by_scale = lanes + 6 * c * kLanes;
  float *outer_last = sums, *outer_wide = sums + c * c, *outer_narrow = sums + 3 * c * c, *vectors = sums + 4 * c * c;
  std::memset(lanes, 0, 7 * c * kLanes * sizeof(float));
  std::memset(sums, 0, 4 * c * c * sizeof(float));
  for (int64_t at = first; at < last; at += kTile) {
    const int64_t n = last - at < kTile ? last - at : kTile, strips = (n + kStrip - 1) / kStrip;
    gather(c, step, image.grad, nullptr, at, n, behind);  // zeros beyond the last pixel: nothing in the sums
    add_channels(c, strips, behind, by_last);
    gather(2 * c, step, image.between, nullptr, at, n, tile.wide);
    in_shares(c, c, strips, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
      float *gate = tile.value + s * c * kStrip, *factors = tile.wide + 2 * s * c * kStrip;
      const float* from = behind + s * c * kStrip;
      product({feed.last, nullptr}, begin, end, c, from, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
        float *one = factors + row * kStrip, *other = one + c * kStrip;
        const Vector one_low = load(one), one_high = load(one + kLanes);
        const Vector other_low = load(other), other_high = load(other + kLanes);
        store(gate + row * kStrip, one_low * other_low);
        store(gate + row * kStrip + kLanes, one_high * other_high);
        store(one, low * other_low);
        store(one + kLanes, high * other_high);
        store(other, low * one_low);
        store(other + kLanes, high * one_high);
        add_to(by_wide + row * kLanes, low * other_low + high * other_high);
        add_to(by_wide + (row + c) * kLanes, low * one_low + high * one_high);
      });
    });
    turn(c, strips, tile.value, tile.panels);
    add_outer(c, c, strips, behind, tile.panels, outer_last);
    gather(c, step, image.total, nullptr, at, n, tile.value);
    unwiden(c, feed.norm, feed.wide, tile, strips, behind, outer_wide, by_norm);
    scatter(c, step, tile.grads, at, n, image.grad_total);
    add_channels(c, strips, tile.grads, by_narrow);
    gather(c, step, image.mixed, nullptr, at, n, tile.value);
    in_shares(c, c, strips, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
      float *mixed = tile.value + s * c * kStrip, *to = tile.wide + s * c * kStrip;
      const float* from = tile.grads + s * c * kStrip;
      product({feed.narrow, nullptr}, begin, end, c, from, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
        float* own = mixed + row * kStrip;
        const Vector own_low = load(own), own_high = load(own + kLanes);
        const float scale = image.scale ? image.scale[row] : 1.0f;
        add_to(by_scale + row * kLanes, low * own_low + high * own_high);
        store(own, own_low * scale);
        store(own + kLanes, own_high * scale);
        store(to + row * kStrip, low * scale);
        store(to + row * kStrip + kLanes, high * scale);
      });
    });
    scatter(c, step, tile.wide, at, n, image.grad_mixed);
    turn(c, strips, tile.value, tile.panels);
    add_outer(c, c, strips, tile.grads, tile.panels, outer_narrow);
  }
  add_lanes(4 * c, 1, lanes, vectors);
  for (int64_t j = 0; j < 2; ++j) add_lanes(c, 2, by_norm + j * kLanes, vectors + (4 + j) * c);
  add_lanes(c, 1, by_scale, vectors + 6 * c);
}

// ---- mix ----

int64_t wide_back_scratch(int64_t c) { return 4 * c * kTile + panels_size(c) + 2 * c * kLanes; }

void wide_back(const WideBack& wide, const float* x, const float* grad, float* grad_x, int64_t first, int64_t last,
               float* sums, float* scratch) {
  const int64_t c = wide.channels, step = wide.pixels;
  const Tile tile{scratch, scratch + c * kTile, scratch + 2 * c * kTile, scratch + 4 * c * kTile};
  float* by_norm = tile.panels + panels_size(c);
  std::memset(by_norm, 0, 2 * c * kLanes * sizeof(float));
  std::memset(sums, 0, 2 * c * c * sizeof(float));
  for (int64_t at = first; at < last; at += kTile) {
    const int64_t n = last - at < kTile ? last - at : kTile, strips = (n + kStrip - 1) / kStrip;
    gather(2 * c, step, grad, nullptr, at, n, tile.wide);
    gather(c, step, x, nullptr, at, n, tile.value);
    unwiden(c, wide.norm, wide.turned, tile, strips, nullptr, sums, by_norm);
    scatter(c, step, tile.grads, at, n, grad_x);
  }
  for (int64_t j = 0; j < 2; ++j) add_lanes(c, 2, by_norm + j * kLanes, sums + (2 * c + j) * c);
}

// The gradients that reach an input plane (h, w), its kernel and offset from that of the output, in a border of zeros.
void depthwise_backward(int64_t height, int64_t width, int64_t step, const float* grad, const float* plane,
                        const float* kernel, float* grad_plane, float* grad_kernel, float* grad_offset, float* sum) {
  Vector by_tap[9] = {}, offset = {}, total = {};
  float left_by_tap[9] = {}, left_offset = 0, left_total = 0;  // of what is no whole vector
  for (int64_t y = 0; y < height; ++y) {
    const float *centre = grad + (y + 1) * step + 1, *from = plane + y * width;
    float* to = grad_plane + y * width;
    int64_t at = 0;
    for (; at + kLanes <= width; at += kLanes) {
      const Vector value = load(from + at);
      Vector result = {};
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) {
          const Vector g = load(centre + (1 - i) * step + at + 1 - j);
          result += kernel[3 * i + j] * g;
          by_tap[3 * i + j] += value * g;
        }
      }
      store(to + at, result);
      total += result;
      offset += load(centre + at);
    }
    for (; at < width; ++at) {
      float result = 0;
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          const float g = centre[(1 - i) * step + at + 1 - j];
          result += kernel[3 * i + j] * g;
          left_by_tap[3 * i + j] += from[at] * g;
        }
      }
      to[at] = result;
      left_total += result;
      left_offset += centre[at];
    }
  }
  for (int i = 0; i < 9; ++i) grad_kernel[i] = sum_of(by_tap[i]) + left_by_tap[i];
  *grad_offset = sum_of(offset) + left_offset;
  *sum = sum_of(total) + left_total;
}

int64_t mix_backward_step(const Mix& mix) { return mix.width + 2 + kLanes; }

int64_t mix_backward_scratch(const Mix& mix) { return 2 * (mix.height + 2) * mix_backward_step(mix) + mix.width; }

void mix_backward(const Mix& mix, int64_t channel, const float* grad, float more, const float* between,
                  float* grad_between, float* grad_kernel, float* grad_offset, float* sum, float* scratch) {
  const int64_t height = mix.height, width = mix.width, step = mix_backward_step(mix), size = (height + 2) * step;
  const int64_t pair[2] = {channel, channel + mix.channels};
  const int64_t plane_size = height * width;
  std::memset(scratch, 0, (2 * size + width) * sizeof(float));
  float *one = scratch, *other = scratch + size;  // the gradients of both factors
  const float* zeros = other + size;
  for (int64_t y = 0; y < height; ++y) {
    const float* rows[2][3];
    for (int k = 0; k < 2; ++k)
      for (int64_t i = 0; i < 3; ++i)
        rows[k][i] = y + i < 1 || y + i > height ? zeros : between + pair[k] * plane_size + (y + i - 1) * width;
    const float* g = grad + channel * plane_size + y * width;
    float *to_one = one + (y + 1) * step + 1, *to_other = other + (y + 1) * step + 1;
    const float *kernel_one = mix.kernel + 9 * pair[0], *kernel_other = mix.kernel + 9 * pair[1];
    const float offset_one = mix.offset[pair[0]], offset_other = mix.offset[pair[1]];
    along_row(
        width,
        [&](int64_t at, bool inner) VSR_LAMBDA {
          const Vector grads = load(g + at) + more;
          store(to_one + at, grads * (inner ? taps(rows[1], kernel_other, offset_other, at)
                                            : edge_taps(rows[1], kernel_other, offset_other, at, width)));
          store(to_other + at, grads * (inner ? taps(rows[0], kernel_one, offset_one, at)
                                              : edge_taps(rows[0], kernel_one, offset_one, at, width)));
        },
        [&](int64_t at) VSR_LAMBDA {
          to_one[at] = (g[at] + more) * tap(rows[1], kernel_other, offset_other, at, width);
          to_other[at] = (g[at] + more) * tap(rows[0], kernel_one, offset_one, at, width);
        });
  }
  for (int k = 0; k < 2; ++k) {
    const int64_t n = pair[k];
    depthwise_backward(height, width, step, k ? other : one, between + n * plane_size, mix.kernel + 9 * n,
                       grad_between + n * plane_size, grad_kernel + 9 * n, grad_offset + n, sum + n);
  }
}

// ---- up ----

int64_t up_back_scratch(const Up& up) {
  return (2 + 4 * up.outputs + 2 * up.channels) * kTile + panels_size(up.channels);
}

void up_back(const Up& up, const float* x, const float* grad, float* grad_x, int64_t first, int64_t last, float* sums,
             float* scratch) {
  const int64_t c = up.channels, rows = 2 * up.outputs, pixels = up.height * up.width;
  float *line = scratch, *wide = line + 2 * kTile, *value = wide + 2 * rows * kTile, *grads = value + c * kTile;
  float* panels = grads + c * kTile;
  std::memset(sums, 0, 2 * rows * c * sizeof(float));
  for (int64_t at = first; at < last; at += kTile) {
    const int64_t n = last - at < kTile ? last - at : kTile, strips = (n + kStrip - 1) / kStrip;
    std::memset(line, 0, 2 * kTile * sizeof(float));  // zeros beyond the last pixel: nothing in the sums
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = grad + row / 2 * 4 * pixels + row % 2 * 2 * up.width;
      in_rows(up.width, at, n, [&](int64_t done, int64_t some, int64_t place) VSR_LAMBDA {
        std::memcpy(line + 2 * done, from + place, 2 * some * sizeof(float));
      });
      for (int64_t i = 0; i < 2 * strips; ++i) {
        const Vector one = load(line + 2 * i * kLanes), other = load(line + (2 * i + 1) * kLanes);
        float* to = wide + i / 2 * 2 * rows * kStrip + row * kStrip + i % 2 * kLanes;
        store(to, every_second<0>(one, other, EveryLane{}));
        store(to + rows * kStrip, every_second<1>(one, other, EveryLane{}));
      }
    }
    in_shares(c, 2 * rows, strips, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
      const float* from = wide + 2 * s * rows * kStrip;
      float* to = grads + s * c * kStrip;
      product({up.weight, nullptr}, begin, end, 2 * rows, from, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
        store(to + row * kStrip, low);
        store(to + row * kStrip + kLanes, high);
      });
    });
    scatter(c, pixels, grads, at, n, grad_x);
    gather(c, pixels, x, nullptr, at, n, value);
    turn(c, strips, value, panels);
    add_outer(2 * rows, c, strips, wide, panels, sums);
  }
}

}  // namespace

const BackKernels& VSR_NAME(back_kernels_, VSR_ISA)() {
  static constexpr BackKernels kernels = {&feed_back_scratch, &feed_back, &wide_back_scratch, &wide_back,
                                          &mix_backward_scratch, &mix_backward, &up_back_scratch, &up_back};
  return kernels;
}

}  // namespace naf
}  // namespace vsr
