// The forward kernels of NAFNet's block on the CPU, compiled once for each instruction set: see nafnet_block.h.

#include "nafnet_block.h"

namespace vsr {
namespace naf {
namespace {

constexpr int64_t kRingBytes = 384 << 10;  // rows between the matrix and the depthwise kernel

// ---- norm ----

// Normalises the pixels of a strip (channels, kStrip), from `from` to `to`.
void normalise(const Norm& norm, int64_t channels, const float* from, float* to) {
  Vector mean[2] = {}, variance[2] = {};
  for (int64_t c = 0; c < channels; ++c)
    for (int j = 0; j < 2; ++j) mean[j] += load(from + c * kStrip + j * kLanes);
  for (int j = 0; j < 2; ++j) mean[j] /= all(float(channels));
  for (int64_t c = 0; c < channels; ++c) {
    for (int j = 0; j < 2; ++j) {
      const Vector difference = load(from + c * kStrip + j * kLanes) - mean[j];
      variance[j] += difference * difference;
    }
  }
  for (int j = 0; j < 2; ++j) variance[j] = inverse_root(variance[j] / all(float(channels)) + norm.eps);
  for (int64_t c = 0; c < channels; ++c) {
    for (int j = 0; j < 2; ++j) {
      const Vector value = (load(from + c * kStrip + j * kLanes) - mean[j]) * variance[j];
      store(to + c * kStrip + j * kLanes, value * norm.weight[c] + norm.bias[c]);
    }
  }
}

// ---- mix ----

// Rows of the ring: those that go through the matrix at a time, and the two before them.
int64_t ring_rows(const Mix& mix) {
  const int64_t row_bytes = 2 * mix.channels * mix.width * int64_t(sizeof(float));
  const int64_t fitting = kRingBytes / row_bytes - 2, least = (kTile + mix.width - 1) / mix.width;
  const int64_t rows = fitting < least ? least : fitting > 4 * least ? 4 * least : fitting;
  return rows + 2;
}

int64_t ring_step(const Mix& mix) { return ring_rows(mix) * mix.width + kStrip; }  // of a channel

int64_t mix_scratch(const Mix& mix) { return mix.channels * kTile + 2 * mix.channels * ring_step(mix); }

// The 2c channels of pixels [first, first + n) -> to, whose channels lie `step` apart and have room for whole strips.
void widen(const Mix& mix, const float* x, int64_t first, int64_t n, float* strips, float* to, int64_t step) {
  const int64_t c = mix.channels;
  for (int64_t done = 0; done < n; done += kTile) {
    const int64_t some = n - done < kTile ? n - done : kTile, number = (some + kStrip - 1) / kStrip;
    gather(c, mix.height * mix.width, x, nullptr, first + done, some, strips);
    for (int64_t s = 0; s < number; ++s) normalise(mix.norm, c, strips + s * c * kStrip, strips + s * c * kStrip);
    in_shares(2 * c, c, number, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
      float* column = to + done + s * kStrip;
      product(mix.wide, begin, end, c, strips + s * c * kStrip, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
        store(column + row * step, low);
        store(column + row * step + kLanes, high);
      });
    });
  }
}

void gate_row(int64_t width, const float* const (&one)[3], const float* const (&other)[3], const float* kernel_one,
              const float* kernel_other, float offset_one, float offset_other, float* out) {
  along_row(
      width,
      [&](int64_t at, bool inner) VSR_LAMBDA {
        store(out + at, inner ? taps(one, kernel_one, offset_one, at) * taps(other, kernel_other, offset_other, at)
                              : edge_taps(one, kernel_one, offset_one, at, width) *
                                    edge_taps(other, kernel_other, offset_other, at, width));
      },
      [&](int64_t at) VSR_LAMBDA {
        out[at] = tap(one, kernel_one, offset_one, at, width) * tap(other, kernel_other, offset_other, at, width);
      });
}

float sum_of_row(int64_t width, const float* row) {
  Vector sums = {};
  int64_t at = 0;
  for (; at + kLanes <= width; at += kLanes) sums += load(row + at);
  float sum = sum_of(sums);
  for (; at < width; ++at) sum += row[at];
  return sum;
}

void mix(const Mix& mix, const float* x, float* out, float* between, float* sums, int64_t first, int64_t last,
         float* scratch) {
  const int64_t c = mix.channels, width = mix.width, rows = ring_rows(mix), step = ring_step(mix);
  float *strips = scratch, *ring = scratch + c * kTile;
  int64_t base = first - 1;  // the image's row that is row 0 of the ring
  int64_t filled = base;     // the image's row that comes next into the ring
  const auto clear = [&](int64_t row) {
    for (int64_t n = 0; n < 2 * c; ++n) std::memset(ring + n * step + (row - base) * width, 0, width * sizeof(float));
  };
  if (filled < 0) clear(filled++);
  for (int64_t next = first; next < last;) {
    int64_t until = base + rows < last + 1 ? base + rows : last + 1;  // the last output row needs the one below it
    const bool bottom = until > mix.height;
    if (bottom) until = mix.height;
    widen(mix, x, filled * width, (until - filled) * width, strips, ring + (filled - base) * width, step);
    if (between) {  // each row by the one task that owns it
      const int64_t from = filled > first ? filled : first, to = until < last ? until : last;
      for (int64_t n = 0; n < 2 * c && from < to; ++n)
        std::memcpy(between + (n * mix.height + from) * width, ring + n * step + (from - base) * width,
                    (to - from) * width * sizeof(float));
    }
    filled = until;
    if (bottom) clear(filled++);
    for (int64_t n = 0; n < c; ++n) {
      for (int64_t row = next; row < filled - 1; ++row) {
        const float* one = ring + n * step + (row - base) * width;
        const float* other = one + c * step;
        float* to = out + (n * mix.height + row) * width;
        gate_row(width, {one - width, one, one + width}, {other - width, other, other + width}, mix.kernel + 9 * n,
                 mix.kernel + 9 * (n + c), mix.offset[n], mix.offset[n + c], to);
        sums[n * mix.height + row] = sum_of_row(width, to);
      }
    }
    next = filled - 1;
    for (int64_t n = 0; n < 2 * c; ++n)
      std::memmove(ring + n * step, ring + n * step + (filled - 2 - base) * width, 2 * width * sizeof(float));
    base = filled - 2;
  }
}

// ---- feed ----

int64_t feed_scratch(const Feed& feed) { return 5 * feed.channels * kTile; }

// Images are read and written in rows of a tile, never straight from a product: its rows are a whole image apart.
void feed_tile(const Feed& feed, const float* x, const float* mixed, const float* scale, float* out, float* sum,
               float* between, int64_t first, int64_t n, float* scratch) {
  const int64_t c = feed.channels, step = feed.pixels, number = (n + kStrip - 1) / kStrip;
  float *left = scratch, *right = left + c * kTile, *added = right + c * kTile, *pairs = added + c * kTile;
  gather(c, step, mixed, scale, first, n, left);
  gather(c, step, x, nullptr, first, n, added);
  in_shares(c, c, number, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
    float* to = added + s * c * kStrip;
    product(feed.narrow, begin, end, c, left + s * c * kStrip, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
      float* at = to + row * kStrip;
      store(at, load(at) + feed.beta[row] * low);
      store(at + kLanes, load(at + kLanes) + feed.beta[row] * high);
    });
  });
  if (sum) scatter(c, step, added, first, n, sum);
  for (int64_t s = 0; s < number; ++s) normalise(feed.norm, c, added + s * c * kStrip, left + s * c * kStrip);
  in_shares(c, 2 * c, number, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
    float *to = right + s * c * kStrip, *kept = pairs + 2 * s * c * kStrip;
    product_of_pairs(feed.wide, begin, end, c, c, left + s * c * kStrip,
                     [&](int64_t row, Vector low, Vector high, Vector other_low, Vector other_high) VSR_LAMBDA {
                       store(to + row * kStrip, low * other_low);
                       store(to + row * kStrip + kLanes, high * other_high);
                       if (between) {
                         store(kept + row * kStrip, low);
                         store(kept + row * kStrip + kLanes, high);
                         store(kept + (row + c) * kStrip, other_low);
                         store(kept + (row + c) * kStrip + kLanes, other_high);
                       }
                     });
  });
  if (between) scatter(2 * c, step, pairs, first, n, between);
  in_shares(c, c, number, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
    float* to = added + s * c * kStrip;
    product(feed.last, begin, end, c, right + s * c * kStrip, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
      float* at = to + row * kStrip;
      store(at, load(at) + feed.gamma[row] * low);
      store(at + kLanes, load(at + kLanes) + feed.gamma[row] * high);
    });
  });
  scatter(c, step, added, first, n, out);
}

void feed(const Feed& feed, const float* x, const float* mixed, const float* scale, float* out, float* sum,
          float* between, int64_t first, int64_t last, float* scratch) {
  for (int64_t at = first; at < last; at += kTile)
    feed_tile(feed, x, mixed, scale, out, sum, between, at, last - at < kTile ? last - at : kTile, scratch);
}

// ---- up ----

int64_t up_scratch(const Up& up) { return (up.channels + 4 * up.outputs) * kTile; }

void up(const Up& up, const float* x, const float* skip, float* out, int64_t first, int64_t last, float* scratch) {
  const int64_t c = up.channels, rows = 2 * up.outputs, pixels = up.height * up.width;
  float *strips = scratch, *lines = scratch + c * kTile;
  for (int64_t at = first; at < last; at += kTile) {
    const int64_t n = last - at < kTile ? last - at : kTile, number = (n + kStrip - 1) / kStrip;
    gather(c, pixels, x, nullptr, at, n, strips);
    in_shares(rows, 2 * c, number, [&](int64_t begin, int64_t end, int64_t s) VSR_STAGE {
      float* to = lines + 2 * s * kStrip;
      product_of_pairs({up.weight, nullptr}, begin, end, rows, c, strips + s * c * kStrip,
                       [&](int64_t row, Vector low, Vector high, Vector other_low, Vector other_high) VSR_LAMBDA {
                         float* line = to + row * 2 * kTile;
                         store(line, by_turns<0>(low, other_low, EveryLane{}));
                         store(line + kLanes, by_turns<1>(low, other_low, EveryLane{}));
                         store(line + 2 * kLanes, by_turns<0>(high, other_high, EveryLane{}));
                         store(line + 3 * kLanes, by_turns<1>(high, other_high, EveryLane{}));
                       });
    });
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t start = row / 2 * 4 * pixels + row % 2 * 2 * up.width;
      in_rows(up.width, at, n, [&](int64_t done, int64_t some, int64_t place) VSR_LAMBDA {
        const float *line = lines + 2 * (row * kTile + done), *more = skip + start + place;
        float* to = out + start + place;
        for (int64_t i = 0; i < 2 * some; ++i) to[i] = line[i] + more[i];
      });
    }
  }
}

}  // namespace

const Kernels& VSR_NAME(kernels_, VSR_ISA)() {
  static constexpr Kernels kernels = {&mix_scratch, &feed_scratch, kTile, &mix, &feed, &up_scratch, &up};
  return kernels;
}

}  // namespace naf
}  // namespace vsr
