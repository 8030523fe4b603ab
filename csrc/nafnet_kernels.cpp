// The CPU kernels of NAFNet's block, written in the compilers' portable vectors. This file is compiled once for each
// instruction set, with VSR_ISA naming it. It includes nothing whose inline functions the linker could share between
// these objects: a machine without AVX-512 must never meet code that was compiled for it.
//
// The lanes of a vector are pixels. A strip is kStrip pixels of all channels, (channels, kStrip): what a product reads
// lies in the first-level cache, and the weights need no packing, each is broadcast from where it is.

#include <cstdint>
#include <cstring>

#include "nafnet_cpu.h"

#ifndef VSR_ISA
#define VSR_ISA portable
#endif

namespace vsr {
namespace naf {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12;  // of 32 registers 24 hold sums
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 6;  // of 16 registers 12 do
#else
constexpr int kLanes = 4, kRows = 6;
#endif
constexpr int kStrip = 2 * kLanes;
constexpr int64_t kTile = 128;                    // pixels whose strips are worked on together
constexpr int64_t kStrips = kTile / kStrip;
constexpr int64_t kWeightBytes = 96 << 10;        // weights that stay in the second-level cache for a tile
constexpr int64_t kRingBytes = 384 << 10;         // rows between the matrix and the depthwise kernel

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

#define VSR_INLINE inline __attribute__((always_inline))
#define VSR_LAMBDA __attribute__((always_inline))

VSR_INLINE Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

VSR_INLINE void store(float* to, Vector v) { std::memcpy(to, &v, sizeof(v)); }

VSR_INLINE Vector all(float value) { return Vector{} + value; }

VSR_INLINE Vector inverse_root(Vector v) {
  for (int i = 0; i < kLanes; ++i) v[i] = 1 / __builtin_sqrtf(v[i]);
  return v;
}

// Stores the first n of a strip's pixels.
VSR_INLINE void store_some(float* to, Vector low, Vector high, int64_t n) {
  if (n >= kStrip) {
    store(to, low);
    store(to + kLanes, high);
  } else {
    float strip[kStrip];
    store(strip, low);
    store(strip + kLanes, high);
    for (int64_t i = 0; i < n; ++i) to[i] = strip[i];
  }
}

VSR_INLINE void load_some(const float* from, Vector& low, Vector& high, int64_t n) {
  if (n >= kStrip) {
    low = load(from);
    high = load(from + kLanes);
  } else {
    float strip[kStrip] = {};
    for (int64_t i = 0; i < n; ++i) strip[i] = from[i];
    low = load(strip);
    high = load(strip + kLanes);
  }
}

// ---- matrix products ----

// sum[i] += rows[i] . strip, for the M rows of k weights.
template <int M>
VSR_INLINE void multiply(int64_t k, const float* const (&rows)[M], const float* strip, Vector (&sum)[M][2]) {
#pragma GCC unroll 2
  for (int64_t l = 0; l < k; ++l) {
    const Vector low = load(strip + l * kStrip), high = load(strip + l * kStrip + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const float weight = rows[i][l];
      sum[i][0] += weight * low;
      sum[i][1] += weight * high;
    }
  }
}

// Calls work(first, number) for blocks of rows [first, first + number) that are all but equally high.
template <int Most, typename Work>
VSR_INLINE void in_blocks(int64_t begin, int64_t end, const Work& work) {
  const int64_t rows = end - begin, blocks = (rows + Most - 1) / Most;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t first = begin + i * rows / blocks;
    work(first, begin + (i + 1) * rows / blocks - first);
  }
}

// Calls work.template operator()<M>() with M = m.
template <int M, typename Work>
VSR_INLINE void with_constant(int64_t m, const Work& work) {
  if constexpr (M > 1) {
    if (m < M) return with_constant<M - 1>(m, work);
  }
  work.template operator()<M>();
}

// Rows [begin, end) of matrix (., k) times a strip; done(row, low, high) gets each row's product plus its bias.
template <typename Done>
VSR_INLINE void product(const Matrix& matrix, int64_t begin, int64_t end, int64_t k, const float* strip, const Done& done) {
  in_blocks<kRows>(begin, end, [&](int64_t first, int64_t number) VSR_LAMBDA {
    with_constant<kRows>(number, [&]<int M>() VSR_LAMBDA {
      const float* rows[M];
      Vector sum[M][2];
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        rows[i] = matrix.weight + (first + i) * k;
        sum[i][0] = sum[i][1] = all(matrix.bias[first + i]);
      }
      multiply<M>(k, rows, strip, sum);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) done(first + i, sum[i][0], sum[i][1]);
    });
  });
}

// The same for pairs of rows, row and row + half: done(row, low, high, low of the other, high of the other).
template <typename Done>
VSR_INLINE void product_of_pairs(const Matrix& matrix, int64_t begin, int64_t end, int64_t half, int64_t k,
                                 const float* strip, const Done& done) {
  in_blocks<kRows / 2>(begin, end, [&](int64_t first, int64_t number) VSR_LAMBDA {
    with_constant<kRows / 2>(number, [&]<int M>() VSR_LAMBDA {
      const float* rows[2 * M];
      Vector sum[2 * M][2];
#pragma GCC unroll 16
      for (int i = 0; i < 2 * M; ++i) {
        const int64_t row = i < M ? first + i : first + i - M + half;
        rows[i] = matrix.weight + row * k;
        sum[i][0] = sum[i][1] = all(matrix.bias[row]);
      }
      multiply<2 * M>(k, rows, strip, sum);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) done(first + i, sum[i][0], sum[i][1], sum[M + i][0], sum[M + i][1]);
    });
  });
}

// Calls work(first row, last row, strip) so that a share of a matrix's rows stays in the cache for all strips.
template <typename Work>
VSR_INLINE void in_shares(int64_t rows, int64_t k, int64_t strips, const Work& work) {
  const int64_t some = kWeightBytes / int64_t(sizeof(float)) / k / kRows * kRows;
  const int64_t share = some < kRows ? kRows : some;
  for (int64_t row = 0; row < rows; row += share)
    for (int64_t strip = 0; strip < strips; ++strip) work(row, row + share < rows ? row + share : rows, strip);
}

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

// Copies pixels [first, first + n) of an image to strips, zeros after the last; times scale, if there is one.
void gather(int64_t channels, int64_t step, const float* image, const float* scale, int64_t first, int64_t n,
            float* strips) {
  for (int64_t c = 0; c < channels; ++c) {
    const float* from = image + c * step + first;
    const float factor = scale ? scale[c] : 1.0f;
    for (int64_t done = 0; done < n; done += kStrip) {
      Vector low, high;
      load_some(from + done, low, high, n - done);
      float* to = strips + done * channels + c * kStrip;
      store(to, low * factor);
      store(to + kLanes, high * factor);
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
    in_shares(2 * c, c, number, [&](int64_t begin, int64_t end, int64_t s) {
      float* column = to + done + s * kStrip;
      product(mix.wide, begin, end, c, strips + s * c * kStrip, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
        store(column + row * step, low);
        store(column + row * step + kLanes, high);
      });
    });
  }
}

// The depthwise convolution at one pixel of a row, from the rows above, at and below it.
VSR_INLINE float tap(const float* const (&rows)[3], const float* kernel, float offset, int64_t at, int64_t width) {
  float sum = offset;
  for (int i = 0; i < 3; ++i) {
    if (at > 0) sum += kernel[3 * i] * rows[i][at - 1];
    sum += kernel[3 * i + 1] * rows[i][at];
    if (at + 1 < width) sum += kernel[3 * i + 2] * rows[i][at + 1];
  }
  return sum;
}

VSR_INLINE Vector taps(const float* const (&rows)[3], const float* kernel, float offset, int64_t at) {
  Vector sum = all(offset);
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) sum += kernel[3 * i + j] * load(rows[i] + at + j - 1);
  }
  return sum;
}

template <int...>
struct Lanes {};
template <int N, int... I>
struct AllLanes : AllLanes<N - 1, N - 1, I...> {};
template <int... I>
struct AllLanes<0, I...> {
  using type = Lanes<I...>;
};

// kLanes lanes of (a, b), from the lane `kFirst` on.
template <int kFirst, int... I>
VSR_INLINE Vector lanes_from(Vector a, Vector b, Lanes<I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, (kFirst + I)...);
#else
  return Vector{(kFirst + I < kLanes ? a[(kFirst + I) % kLanes] : b[(kFirst + I) % kLanes])...};
#endif
}

// The same for the first and the last vector of a row, with zeros beyond its ends.
VSR_INLINE Vector edge_taps(const float* const (&rows)[3], const float* kernel, float offset, int64_t at, int64_t width) {
  using Every = AllLanes<kLanes>::type;
  Vector sum = all(offset);
  for (int i = 0; i < 3; ++i) {
    const Vector centre = load(rows[i] + at);
    const Vector left = at > 0 ? load(rows[i] + at - 1) : lanes_from<kLanes - 1>(Vector{}, centre, Every{});
    const Vector right = at + kLanes < width ? load(rows[i] + at + 1) : lanes_from<1>(centre, Vector{}, Every{});
    sum += kernel[3 * i] * left + kernel[3 * i + 1] * centre + kernel[3 * i + 2] * right;
  }
  return sum;
}

// Calls vector(at, inner) and, in rows that are too short for that, single(at), so that each pixel is met at least once;
// inner: none of the vector's neighbours lies beyond the row.
template <typename OfVector, typename OfSingle>
VSR_INLINE void along_row(int64_t width, const OfVector& vector, const OfSingle& single) {
  if (width < kLanes) {
    for (int64_t at = 0; at < width; ++at) single(at);
    return;
  }
  vector(0, false);
  int64_t at = kLanes;
  for (; at + kLanes < width; at += kLanes) vector(at, true);
  if (at < width) vector(width - kLanes, false);
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

void mix(const Mix& mix, const float* x, float* out, float* between, int64_t first, int64_t last, float* scratch) {
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
        gate_row(width, {one - width, one, one + width}, {other - width, other, other + width}, mix.kernel + 9 * n,
                 mix.kernel + 9 * (n + c), mix.offset[n], mix.offset[n + c], out + (n * mix.height + row) * width);
      }
    }
    next = filled - 1;
    for (int64_t n = 0; n < 2 * c; ++n)
      std::memmove(ring + n * step, ring + n * step + (filled - 2 - base) * width, 2 * width * sizeof(float));
    base = filled - 2;
  }
}

// ---- feed ----

int64_t feed_scratch(const Feed& feed) { return 3 * feed.channels * kTile; }

void feed_tile(const Feed& feed, const float* x, const float* mixed, const float* scale, float* out, float* sum,
               float* between, int64_t first, int64_t n, float* scratch) {
  const int64_t c = feed.channels, step = feed.pixels, number = (n + kStrip - 1) / kStrip;
  float *left = scratch, *right = left + c * kTile, *added = right + c * kTile;
  gather(c, step, mixed, scale, first, n, left);
  in_shares(c, c, number, [&](int64_t begin, int64_t end, int64_t s) {
    float* to = added + s * c * kStrip;
    const int64_t some = n - s * kStrip, at = first + s * kStrip;
    product(feed.narrow, begin, end, c, left + s * c * kStrip, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
      Vector x_low, x_high;
      load_some(x + row * step + at, x_low, x_high, some);
      low = x_low + feed.beta[row] * low;
      high = x_high + feed.beta[row] * high;
      store(to + row * kStrip, low);
      store(to + row * kStrip + kLanes, high);
      if (sum) store_some(sum + row * step + at, low, high, some);
    });
  });
  for (int64_t s = 0; s < number; ++s) normalise(feed.norm, c, added + s * c * kStrip, left + s * c * kStrip);
  in_shares(c, 2 * c, number, [&](int64_t begin, int64_t end, int64_t s) {
    float* to = right + s * c * kStrip;
    const int64_t some = n - s * kStrip, at = first + s * kStrip;
    product_of_pairs(feed.wide, begin, end, c, c, left + s * c * kStrip,
                     [&](int64_t row, Vector low, Vector high, Vector other_low, Vector other_high) VSR_LAMBDA {
                       store(to + row * kStrip, low * other_low);
                       store(to + row * kStrip + kLanes, high * other_high);
                       if (between) {
                         store_some(between + row * step + at, low, high, some);
                         store_some(between + (row + c) * step + at, other_low, other_high, some);
                       }
                     });
  });
  in_shares(c, c, number, [&](int64_t begin, int64_t end, int64_t s) {
    const float* from = added + s * c * kStrip;
    const int64_t some = n - s * kStrip, at = first + s * kStrip;
    product(feed.last, begin, end, c, right + s * c * kStrip, [&](int64_t row, Vector low, Vector high) VSR_LAMBDA {
      low = load(from + row * kStrip) + feed.gamma[row] * low;
      high = load(from + row * kStrip + kLanes) + feed.gamma[row] * high;
      store_some(out + row * step + at, low, high, some);
    });
  });
}

void feed(const Feed& feed, const float* x, const float* mixed, const float* scale, float* out, float* sum,
          float* between, int64_t first, int64_t last, float* scratch) {
  for (int64_t at = first; at < last; at += kTile)
    feed_tile(feed, x, mixed, scale, out, sum, between, at, last - at < kTile ? last - at : kTile, scratch);
}

// ---- backward ----

float sum_of(Vector v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

void norm_backward(const Norm& norm, int64_t channels, int64_t pixels, const float* x, const float* grad,
                   const NormGradients& to, float* sums, int64_t first, int64_t last, float* scratch) {
  float *strips = scratch, *grads = strips + channels * kTile, *partial = grads + channels * kTile;
  std::memset(partial, 0, 2 * channels * kLanes * sizeof(float));
  const Vector number = all(float(channels));
  for (int64_t tile = first; tile < last; tile += kTile) {
    const int64_t n = last - tile < kTile ? last - tile : kTile;
    gather(channels, pixels, x, nullptr, tile, n, strips);
    gather(channels, pixels, grad, nullptr, tile, n, grads);  // zeros beyond the last pixel: nothing in the sums
    for (int64_t done = 0; done < n; done += kStrip) {
      const float *value = strips + done * channels, *g = grads + done * channels;
      Vector mean[2] = {}, root[2] = {}, flat[2] = {}, steep[2] = {};
      for (int64_t c = 0; c < channels; ++c)
        for (int j = 0; j < 2; ++j) mean[j] += load(value + c * kStrip + j * kLanes);
      for (int j = 0; j < 2; ++j) mean[j] /= number;
      for (int64_t c = 0; c < channels; ++c) {
        for (int j = 0; j < 2; ++j) {
          const Vector difference = load(value + c * kStrip + j * kLanes) - mean[j];
          const Vector weighted = load(g + c * kStrip + j * kLanes) * norm.weight[c];
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
      const int64_t at = tile + done, some = n - done;
      for (int64_t c = 0; c < channels; ++c) {
        Vector out[2], in[2], more[2] = {};
        if (to.added) load_some(to.added + c * pixels + at, more[0], more[1], some);
        for (int j = 0; j < 2; ++j) {
          const Vector own = load(g + c * kStrip + j * kLanes);
          const Vector normal = (load(value + c * kStrip + j * kLanes) - mean[j]) * root[j];
          out[j] = normal * norm.weight[c] + norm.bias[c];
          in[j] = more[j] + root[j] * (own * norm.weight[c] - flat[j] - normal * steep[j]);
          float* sum = partial + 2 * c * kLanes;
          store(sum, load(sum) + own * normal);
          store(sum + kLanes, load(sum + kLanes) + own);
        }
        store_some(to.output + c * pixels + at, out[0], out[1], some);
        store_some(to.input + c * pixels + at, in[0], in[1], some);
      }
    }
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int j = 0; j < 2; ++j) sums[j * channels + c] = sum_of(load(partial + (2 * c + j) * kLanes));
}

void gate_backward(int64_t pixels, const float* grad, const float* one, const float* other, float* product,
                   float* grad_one, float* grad_other, float* sum_one, float* sum_other) {
  Vector first = {}, second = {};
  int64_t at = 0;
  for (; at + kLanes <= pixels; at += kLanes) {
    const Vector g = load(grad + at), a = load(one + at), b = load(other + at);
    store(product + at, a * b);
    store(grad_one + at, g * b);
    store(grad_other + at, g * a);
    first += g * b;
    second += g * a;
  }
  *sum_one = sum_of(first);
  *sum_other = sum_of(second);
  for (; at < pixels; ++at) {
    const float g = grad[at], a = one[at], b = other[at];
    product[at] = a * b;
    *sum_one += grad_one[at] = g * b;
    *sum_other += grad_other[at] = g * a;
  }
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

void mix_backward(const Mix& mix, int64_t channel, const float* grad, const float* between, float* grad_between,
                  float* grad_kernel, float* grad_offset, float* sum, float* scratch) {
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
          const Vector grads = load(g + at);
          store(to_one + at, grads * (inner ? taps(rows[1], kernel_other, offset_other, at)
                                            : edge_taps(rows[1], kernel_other, offset_other, at, width)));
          store(to_other + at, grads * (inner ? taps(rows[0], kernel_one, offset_one, at)
                                              : edge_taps(rows[0], kernel_one, offset_one, at, width)));
        },
        [&](int64_t at) VSR_LAMBDA {
          to_one[at] = g[at] * tap(rows[1], kernel_other, offset_other, at, width);
          to_other[at] = g[at] * tap(rows[0], kernel_one, offset_one, at, width);
        });
  }
  for (int k = 0; k < 2; ++k) {
    const int64_t n = pair[k];
    depthwise_backward(height, width, step, k ? other : one, between + n * plane_size, mix.kernel + 9 * n,
                       grad_between + n * plane_size, grad_kernel + 9 * n, grad_offset + n, sum + n);
  }
}

}  // namespace

#define VSR_JOIN(a, b) a##b
#define VSR_NAME(a, b) VSR_JOIN(a, b)

const Kernels& VSR_NAME(kernels_, VSR_ISA)() {
  static constexpr Kernels kernels = {&mix_scratch, &feed_scratch, kTile, &mix, &feed, 2 * (kTile + kLanes), &norm_backward, &gate_backward,
                                       &mix_backward_scratch, &mix_backward};
  return kernels;
}

}  // namespace naf
}  // namespace vsr
