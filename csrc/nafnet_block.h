// Vectors, products, norm and depthwise taps that the forward and the backward kernels of NAFNet's block share, written in
// the compilers' portable vectors. Included once by each *_kernels.cpp, which is compiled once for each instruction set,
// with VSR_ISA naming it: everything here is of its own to each object. Nothing is included whose inline functions the
// linker could share between them: a machine without AVX-512 must never meet code that was compiled for it.
//
// The lanes of a vector are pixels. A strip is kStrip pixels of all channels, (channels, kStrip): what a product reads
// lies in the first-level cache, and the weights need no packing, each is broadcast from where it is.
#pragma once

#include <cstdint>
#include <cstring>

#include "nafnet_cpu.h"

#ifndef VSR_ISA
#define VSR_ISA portable
#endif

#define VSR_JOIN(a, b) a##b
#define VSR_NAME(a, b) VSR_JOIN(a, b)

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
constexpr int64_t kWeightBytes = 96 << 10;        // weights that stay in the second-level cache for a tile

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

#define VSR_INLINE inline __attribute__((always_inline))
#define VSR_LAMBDA __attribute__((always_inline))
#define VSR_STAGE __attribute__((noinline))  // of a lambda around a product: on its own its sums stay in registers

VSR_INLINE Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

VSR_INLINE void store(float* to, Vector v) { std::memcpy(to, &v, sizeof(v)); }

VSR_INLINE Vector all(float value) { return Vector{} + value; }

VSR_INLINE Vector inverse_root(Vector v) {
  float root[kLanes];
  store(root, v);
  for (int i = 0; i < kLanes; ++i) root[i] = __builtin_sqrtf(root[i]);  // one instruction for all
  return all(1.0f) / load(root);
}

VSR_INLINE float sum_of(Vector v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
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

template <int...>
struct Lanes {};
template <int N, int... I>
struct AllLanes : AllLanes<N - 1, N - 1, I...> {};
template <int... I>
struct AllLanes<0, I...> {
  using type = Lanes<I...>;
};
using EveryLane = AllLanes<kLanes>::type;

// Lanes of (a, b): those of b are numbered from kLanes on.
template <int... I>
VSR_INLINE Vector pick(Vector a, Vector b, Lanes<I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, I...);
#else
  return Vector{(I < kLanes ? a[I % kLanes] : b[I % kLanes])...};
#endif
}

// kLanes lanes of (a, b), from the lane `kFirst` on.
template <int kFirst, int... I>
VSR_INLINE Vector lanes_from(Vector a, Vector b, Lanes<I...>) {
  return pick(a, b, Lanes<(kFirst + I)...>{});
}

// Lanes of both by turns: of their first halves, of their second ones.
template <int kHalf, int... I>
VSR_INLINE Vector by_turns(Vector a, Vector b, Lanes<I...>) {
  return pick(a, b, Lanes<((I % 2 ? kLanes : 0) + kHalf * kLanes / 2 + I / 2)...>{});
}

// Every second lane of (a, b), from the first or the second on.
template <int kFirst, int... I>
VSR_INLINE Vector every_second(Vector a, Vector b, Lanes<I...>) {
  return pick(a, b, Lanes<(2 * I + kFirst)...>{});
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
        sum[i][0] = sum[i][1] = all(matrix.bias ? matrix.bias[first + i] : 0.0f);
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
        sum[i][0] = sum[i][1] = all(matrix.bias ? matrix.bias[row] : 0.0f);
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

// Calls run(done, number, at) for the runs of pixels [first, first + n) of an image that lie in one row of it, where `at`
// is what the upper left one of the first one's four becomes in an image of twice the sides.
template <typename Run>
VSR_INLINE void in_rows(int64_t width, int64_t first, int64_t n, const Run& run) {
  for (int64_t done = 0; done < n;) {
    const int64_t y = (first + done) / width, x = (first + done) % width;
    const int64_t number = width - x < n - done ? width - x : n - done;
    run(done, number, 4 * y * width + 2 * x);
    done += number;
  }
}

// Copies strips of a tile to pixels [first, first + n) of an image.
void scatter(int64_t channels, int64_t step, const float* strips, int64_t first, int64_t n, float* image) {
  for (int64_t c = 0; c < channels; ++c) {
    float* to = image + c * step + first;
    for (int64_t done = 0; done < n; done += kStrip) {
      const float* from = strips + done * channels + c * kStrip;
      store_some(to + done, load(from), load(from + kLanes), n - done);
    }
  }
}

// ---- depthwise convolution ----

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

// The same for the first and the last vector of a row, with zeros beyond its ends.
VSR_INLINE Vector edge_taps(const float* const (&rows)[3], const float* kernel, float offset, int64_t at, int64_t width) {
  Vector sum = all(offset);
  for (int i = 0; i < 3; ++i) {
    const Vector centre = load(rows[i] + at);
    const Vector left = at > 0 ? load(rows[i] + at - 1) : lanes_from<kLanes - 1>(Vector{}, centre, EveryLane{});
    const Vector right = at + kLanes < width ? load(rows[i] + at + 1) : lanes_from<1>(centre, Vector{}, EveryLane{});
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

}  // namespace
}  // namespace naf
}  // namespace vsr
