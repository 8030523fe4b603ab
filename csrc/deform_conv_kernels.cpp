// The CPU kernels of the modulated deformable convolution, written in the compilers' portable vectors. This file is
// compiled once for each instruction set, with VSR_ISA naming it. It includes nothing whose inline functions the linker
// could share between these objects: a machine without AVX-512 must never meet code that was compiled for it.

#include <cstdint>
#include <cstring>

#include "deform_conv_cpu.h"

#ifndef VSR_ISA
#define VSR_ISA portable
#endif

namespace vsr {
namespace {

#if defined(__AVX512F__) || defined(VSR_WIDE)  // VSR_WIDE: the tests run this form on any machine
constexpr int kVectorBytes = 64, kRows = 12;  // of 32 registers 24 hold sums
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRows = 6;  // of 16 registers 12 do
#else
constexpr int kVectorBytes = 16, kRows = 6;
#endif
constexpr int64_t kDepth = 256;  // rows of a strip that stay in the first-level cache

template <typename T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vector = typename VectorOf<T, N>::type;

template <typename T>
constexpr int kLongest = kVectorBytes / sizeof(T);
template <typename T>
constexpr int kShortest = 16 / sizeof(T);
template <typename T>
constexpr int kPanel = 2 * kLongest<T>;

template <int N, typename T>
VSR_HD Vector<T, N> load(const T* from) {
  Vector<T, N> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename V, typename T>
VSR_HD void store(T* to, V v) {
  std::memcpy(to, &v, sizeof(v));
}

// ---- elements of any type <-> T ----

VSR_HD float to_float(uint16_t bits) {  // bfloat16
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

VSR_HD uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return value == value ? uint16_t(rounded) : uint16_t(0x7fc0);
}

template <typename T>
void read(const View& view, int64_t at, int64_t stride, int64_t n, T* to, int64_t to_stride = 1) {
  if (view.type == Type::f32) {
    const float* from = static_cast<const float*>(view.data) + at;
    if (stride == 1 && to_stride == 1) {
      for (int64_t i = 0; i < n; ++i) to[i] = T(from[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) to[i * to_stride] = T(from[i * stride]);
    }
  } else if (view.type == Type::f64) {
    const double* from = static_cast<const double*>(view.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i * to_stride] = T(from[i * stride]);
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(view.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i * to_stride] = T(to_float(from[i * stride]));
  }
}

template <typename T>
void write(const T* from, int64_t from_stride, int64_t n, const View& view, int64_t at, int64_t stride) {
  if (view.type == Type::f32) {
    float* to = static_cast<float*>(view.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i * stride] = float(from[i * from_stride]);
  } else if (view.type == Type::f64) {
    double* to = static_cast<double*>(view.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i * stride] = double(from[i * from_stride]);
  } else {
    uint16_t* to = static_cast<uint16_t*>(view.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i * stride] = to_bfloat16(float(from[i * from_stride]));
  }
}

// ---- matrix product ----

// c (M, N * longest) += a (M, k) b (k, N * longest), with all sums in registers.
template <int M, int N, typename T>
void multiply_block(int64_t k, const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c,
                    int64_t c_row) {
  using V = Vector<T, kLongest<T>>;
  V sum[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) sum[i][j] = load<kLongest<T>>(c + i * c_row + j * kLongest<T>);
  for (int64_t l = 0; l < k; ++l) {
    V right[N];
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) right[j] = load<kLongest<T>>(b + l * b_row + j * kLongest<T>);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const T left = a[i * a_row + l * a_column];
#pragma GCC unroll 2
      for (int j = 0; j < N; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) store(c + i * c_row + j * kLongest<T>, sum[i][j]);
}

template <int M, typename T>
void multiply_rows(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row, int64_t a_column, const T* b,
                   int64_t b_row, T* c, int64_t c_row) {
  if (m < M) {
    if constexpr (M > 1) multiply_rows<M - 1>(m, n, k, a, a_row, a_column, b, b_row, c, c_row);
  } else if (n > kLongest<T>) {
    multiply_block<M, 2>(k, a, a_row, a_column, b, b_row, c, c_row);
  } else {
    multiply_block<M, 1>(k, a, a_row, a_column, b, b_row, c, c_row);
  }
}

// c (m, n) += a (m, k) b (k, n). n is in whole vectors; strip s of b begins at b + s * b_strip, its rows b_row apart.
template <typename T>
void multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row, int64_t a_column, const T* b,
              int64_t b_strip, int64_t b_row, T* c, int64_t c_row) {
  for (int64_t depth = 0; depth < k; depth += kDepth) {
    const int64_t some = k - depth < kDepth ? k - depth : kDepth;
    for (int64_t j = 0; j < n; j += kPanel<T>) {
      const T* strip = b + j / kPanel<T> * b_strip + depth * b_row;
      for (int64_t i = 0; i < m; i += kRows) {
        multiply_rows<kRows>(m - i, n - j, some, a + i * a_row + depth * a_column, a_row, a_column, strip, b_row,
                             c + i * c_row + j, c_row);
      }
    }
  }
}

// ---- where the taps read ----

// The places of one tap for the pixels of a tile.
template <typename T>
struct Tap {
  alignas(64) T v00[kMostPixels], v01[kMostPixels], v10[kMostPixels], v11[kMostPixels];  // weights, times scale
  alignas(64) T down[kMostPixels], right[kMostPixels];
  alignas(64) T scale[kMostPixels];  // the mask; 0 outside
  alignas(64) T inside[kMostPixels];
  alignas(64) int32_t top[kMostPixels], left[kMostPixels];
};

// Rows and columns of the input that the pixels [first, first + n) begin to read at.
template <typename T>
struct Origins {
  alignas(64) T y[kMostPixels], x[kMostPixels];

  Origins(const Geometry& g, int64_t first, int64_t n) {
    int64_t row = first / g.out_w, column = first % g.out_w;
    for (int64_t p = 0; p < n; ++p) {
      y[p] = T(g.regular_y(row, 0));
      x[p] = T(g.regular_x(column, 0));
      if (++column == g.out_w) column = 0, ++row;
    }
  }
};

template <typename T>
void find(const Geometry& g, int64_t group, int64_t tap, const Origins<T>& origins, const View& offset,
          const View* mask, int64_t b, int64_t first, int64_t n, Tap<T>& found) {
  alignas(64) T dy[kMostPixels], dx[kMostPixels];
  const Strides& s = offset.strides;
  const int64_t channel = g.offset_channel(group, tap);
  read(offset, s.at(b, channel, 0, first), s.column, n, dy);
  read(offset, s.at(b, channel + 1, 0, first), s.column, n, dx);
  if (mask) {
    read(*mask, mask->strides.at(b, g.mask_channel(group, tap), 0, first), mask->strides.column, n, found.scale);
  } else {
    for (int64_t p = 0; p < n; ++p) found.scale[p] = T(1);
  }
  const T tap_y = T(tap / g.kernel_w * g.dilation_h), tap_x = T(tap % g.kernel_w * g.dilation_w);
  const T height = T(g.height), width = T(g.width);
#pragma GCC ivdep
  for (int64_t p = 0; p < n; ++p) {
    const Place<T> place = locate(dy[p] + (origins.y[p] + tap_y), dx[p] + (origins.x[p] + tap_x), height, width);
    const Corners<T> weights = bilinear(place.down, place.right);
    const T scale = found.scale[p] * place.inside;
    found.top[p] = place.top;
    found.left[p] = place.left;
    found.down[p] = place.down;
    found.right[p] = place.right;
    found.inside[p] = place.inside;
    found.scale[p] = scale;
    found.v00[p] = weights.v00 * scale;
    found.v01[p] = weights.v01 * scale;
    found.v10[p] = weights.v10 * scale;
    found.v11[p] = weights.v11 * scale;
  }
}

// Where the upper left pixel of a place begins in a plane.
VSR_HD int64_t in_plane(const Geometry& g, const Segment& segment, int32_t top, int32_t left) {
  return ((top + int64_t(2)) * (g.width + 2) + (left + 1)) * segment.width;
}

// ---- packing ----

template <typename T>
void pack_plane(const Shape& shape, const Segment& segment, const View& x, int64_t b, T* plane) {
  const Geometry& g = shape.geometry;
  const Strides& s = x.strides;
  const int64_t row_size = (g.width + 2) * segment.width;
  std::memset(plane, 0, shape.plane_size() * segment.width * sizeof(T));
  for (int64_t row = 0; row < g.height; ++row) {
    T* to = plane + (row + 2) * row_size + segment.width;
    if (s.channel == 1) {
      for (int64_t column = 0; column < g.width; ++column)
        read(x, s.at(b, segment.first, row, column), 1, segment.channels, to + column * segment.width);
    } else {
      for (int64_t c = 0; c < segment.channels; ++c)
        read(x, s.at(b, segment.first + c, row, 0), s.column, g.width, to + c, segment.width);
    }
  }
}

template <typename T>
void unpack_plane(const Shape& shape, const Segment& segment, const T* plane, int64_t b, const View& grad_x) {
  const Geometry& g = shape.geometry;
  const Strides& s = grad_x.strides;
  for (int64_t row = 0; row < g.height; ++row) {
    const T* from = plane + ((row + 2) * (g.width + 2) + 1) * segment.width;
    if (s.channel == 1) {
      for (int64_t column = 0; column < g.width; ++column)
        write(from + column * segment.width, 1, segment.channels, grad_x, s.at(b, segment.first, row, column), 1);
    } else {
      for (int64_t c = 0; c < segment.channels; ++c)
        write(from + c, segment.width, g.width, grad_x, s.at(b, segment.first + c, row, 0), s.column);
    }
  }
}

// Where the weight of an output channel, an input channel of a segment and a tap stands.
VSR_HD int64_t weight_at(const Shape& shape, const Segment& segment, const View& weight, int64_t o, int64_t c,
                         int64_t tap) {
  const Geometry& g = shape.geometry;
  const int64_t channel = segment.first - segment.group * (g.in_channels / g.groups) + c;
  return weight.strides.at(segment.group * shape.outputs + o, channel, tap / g.kernel_w, tap % g.kernel_w);
}

template <typename T>
void pack_weight(const Shape& shape, const Segment* segments, int64_t number, const View& weight, int64_t group,
                 int64_t strip, T* packed) {
  const int64_t taps = shape.geometry.taps(), first = strip * kPanel<T>;
  const int64_t outputs = shape.outputs - first < kPanel<T> ? shape.outputs - first : kPanel<T>;
  std::memset(packed, 0, shape.columns * kPanel<T> * sizeof(T));
  for (int64_t i = 0; i < number; ++i) {
    const Segment& segment = segments[i];
    if (segment.group != group) continue;
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t tap = 0; tap < taps; ++tap)
        read(weight, weight_at(shape, segment, weight, first + o, 0, tap), weight.strides.channel, segment.channels,
             packed + (segment.column * taps + tap * segment.width) * kPanel<T> + o, kPanel<T>);
  }
}

template <typename T>
void pack_transposed(const Shape& shape, const Segment& segment, const View& weight, T* packed) {
  const int64_t taps = shape.geometry.taps(), strips = (taps * segment.width + kPanel<T> - 1) / kPanel<T>;
  std::memset(packed, 0, strips * shape.outputs * kPanel<T> * sizeof(T));
  for (int64_t c = 0; c < segment.channels; ++c)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t column = tap * segment.width + c;
      read(weight, weight_at(shape, segment, weight, 0, c, tap), weight.strides.batch, shape.outputs,
           packed + column / kPanel<T> * kPanel<T> * shape.outputs + column % kPanel<T>, kPanel<T>);
    }
}

template <typename T>
void pack_grad(const Shape& shape, int64_t group, const View& grad, int64_t b, int64_t first, int64_t last,
               T* packed) {
  const Strides& s = grad.strides;
  const int64_t o = group * shape.outputs, padding = shape.out_width - shape.outputs;
  packed += first * shape.out_width;
  for (int64_t p = 0; p < last - first; ++p) {
    if (padding) std::memset(packed + p * shape.out_width + shape.outputs, 0, padding * sizeof(T));
    if (s.channel == 1) read(grad, s.at(b, o, 0, first + p), 1, shape.outputs, packed + p * shape.out_width);
  }
  if (s.channel != 1)
    for (int64_t i = 0; i < shape.outputs; ++i)
      read(grad, s.at(b, o + i, 0, first), s.column, last - first, packed + i, shape.out_width);
}

// ---- forward ----

// One tap of a tile into its columns, `step` apart from pixel to pixel. N divides the segment's width.
template <int N, typename T>
void sample(const Geometry& g, const Segment& segment, const T* plane, const Tap<T>& tap, int64_t n, T* columns,
            int64_t step) {
  const int64_t row = (g.width + 2) * segment.width;
  for (int64_t p = 0; p < n; ++p, columns += step) {
    const T* upper = plane + in_plane(g, segment, tap.top[p], tap.left[p]);
    const T* lower = upper + row;
    const T v00 = tap.v00[p], v01 = tap.v01[p], v10 = tap.v10[p], v11 = tap.v11[p];
    for (int64_t c = 0; c < segment.width; c += N) {
      store(columns + c, v00 * load<N>(upper + c) + v01 * load<N>(upper + segment.width + c) +
                             v10 * load<N>(lower + c) + v11 * load<N>(lower + segment.width + c));
    }
  }
}

template <typename T>
constexpr int kMiddle = 2 * kShortest<T> < kLongest<T> ? 2 * kShortest<T> : kShortest<T>;

// Calls function<N>(...) with the longest vector that divides the width.
#define VSR_BY_WIDTH(function, width, ...)    \
  if ((width) % kLongest<T> == 0) {           \
    function<kLongest<T>>(__VA_ARGS__);       \
  } else if ((width) % kMiddle<T> == 0) {     \
    function<kMiddle<T>>(__VA_ARGS__);        \
  } else {                                    \
    function<kShortest<T>>(__VA_ARGS__);      \
  }

template <typename T>
void forward(const Shape& shape, const Segment* segments, int64_t number, const T* planes, const View& offset,
             const View* mask, const T* weight, const View* bias, const View& out, int64_t b, int64_t first,
             int64_t last, T* scratch) {
  const Geometry& g = shape.geometry;
  const int64_t n = last - first, taps = g.taps();
  const int64_t strip = shape.columns * kPanel<T>, strips = (shape.outputs + kPanel<T> - 1) / kPanel<T>;
  const Origins<T> origins(g, first, n);
  Tap<T> tap;
  T* columns = scratch;
  T* sums = scratch + kMostPixels * shape.columns;
  for (int64_t group = 0; group < g.groups; ++group) {
    int64_t length = 0;  // groups may differ in how their segments are padded
    for (int64_t i = 0; i < number; ++i) {
      const Segment& segment = segments[i];
      if (segment.group != group) continue;
      length += taps * segment.width;
      const T* plane = planes + segment.plane * shape.plane_size();
      for (int64_t t = 0; t < taps; ++t) {
        find(g, segment.deform_group, t, origins, offset, mask, b, first, n, tap);
        T* to = columns + segment.column * taps + t * segment.width;
        VSR_BY_WIDTH(sample, segment.width, g, segment, plane, tap, n, to, shape.columns)
      }
    }
    std::memset(sums, 0, n * shape.out_width * sizeof(T));
    if (bias) {
      read(*bias, group * shape.outputs, 1, shape.outputs, sums);
      for (int64_t p = 1; p < n; ++p) std::memcpy(sums + p * shape.out_width, sums, shape.outputs * sizeof(T));
    }
    multiply(n, shape.out_width, length, columns, shape.columns, int64_t(1), weight + group * strips * strip,
             strip, int64_t(kPanel<T>), sums, shape.out_width);
    const Strides& s = out.strides;
    const int64_t o = group * shape.outputs;
    if (s.channel == 1) {
      for (int64_t p = 0; p < n; ++p)
        write(sums + p * shape.out_width, 1, shape.outputs, out, s.at(b, o, 0, first + p), 1);
    } else {
      for (int64_t i = 0; i < shape.outputs; ++i)
        write(sums + i, shape.out_width, n, out, s.at(b, o + i, 0, first), s.column);
    }
  }
}

// ---- backward ----

template <int N, typename T>
VSR_HD Vector<T, kShortest<T>> fold(Vector<T, N> v) {
  if constexpr (N == kShortest<T>) {
    return v;
  } else {
    Vector<T, N / 2> half[2];
    std::memcpy(half, &v, sizeof(v));
    return fold<N / 2, T>(half[0] + half[1]);
  }
}

template <int N, typename T>
VSR_HD T total(Vector<T, N> v) {
  const Vector<T, kShortest<T>> folded = fold<N, T>(v);
  T sum = folded[0];
  for (int i = 1; i < kShortest<T>; ++i) sum += folded[i];
  return sum;
}

// One tap of a tile: writes the columns, adds to grad_plane, and leaves in `dots` the products of the columns' gradient
// with each of the four pixels.
template <int N, typename T>
void scatter(const Geometry& g, const Segment& segment, const T* plane, T* grad_plane, const Tap<T>& tap, int64_t n,
             const T* grad_columns, T* columns, int64_t step, Corners<T>* dots) {
  using V = Vector<T, N>;
  const int64_t row = (g.width + 2) * segment.width;
  for (int64_t p = 0; p < n; ++p, columns += step, grad_columns += step) {
    const int64_t at = in_plane(g, segment, tap.top[p], tap.left[p]);
    const T* upper = plane + at;
    const T* lower = upper + row;
    T* grad_upper = grad_plane + at;
    T* grad_lower = grad_upper + row;
    const T v00 = tap.v00[p], v01 = tap.v01[p], v10 = tap.v10[p], v11 = tap.v11[p];
    V d00{}, d01{}, d10{}, d11{};
    for (int64_t c = 0; c < segment.width; c += N) {
      const V grad = load<N>(grad_columns + c);
      const V x00 = load<N>(upper + c), x01 = load<N>(upper + segment.width + c);
      const V x10 = load<N>(lower + c), x11 = load<N>(lower + segment.width + c);
      store(columns + c, v00 * x00 + v01 * x01 + v10 * x10 + v11 * x11);
      d00 += grad * x00;
      d01 += grad * x01;
      d10 += grad * x10;
      d11 += grad * x11;
      store(grad_upper + c, load<N>(grad_upper + c) + v00 * grad);
      store(grad_upper + segment.width + c, load<N>(grad_upper + segment.width + c) + v01 * grad);
      store(grad_lower + c, load<N>(grad_lower + c) + v10 * grad);
      store(grad_lower + segment.width + c, load<N>(grad_lower + segment.width + c) + v11 * grad);
    }
    dots[p] = {total<N, T>(d00), total<N, T>(d01), total<N, T>(d10), total<N, T>(d11)};
  }
}

template <typename T>
void backward(const Shape& shape, const Segment& segment, const T* plane, const T* grad, const View& offset,
              const View* mask, const T* weight, T* grad_plane, const View& grad_offset, const View* grad_mask,
              T* grad_weight, int64_t b, T* scratch) {
  const Geometry& g = shape.geometry;
  const int64_t taps = g.taps(), length = taps * segment.width;
  const int64_t step = (length + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
  T* columns = scratch;
  T* grad_columns = scratch + kMostPixels * step;
  Tap<T> tap;
  Corners<T> dots[kMostPixels];
  alignas(64) T along[3][kMostPixels];
  for (int64_t first = 0; first < g.pixels(); first += kMostPixels) {
    const int64_t n = g.pixels() - first < kMostPixels ? g.pixels() - first : kMostPixels;
    const T* tile = grad + first * shape.out_width;
    std::memset(grad_columns, 0, n * step * sizeof(T));
    multiply(n, step, shape.outputs, tile, shape.out_width, int64_t(1), weight, shape.outputs * kPanel<T>,
             int64_t(kPanel<T>), grad_columns, step);
    const Origins<T> origins(g, first, n);
    for (int64_t t = 0; t < taps; ++t) {
      find(g, segment.deform_group, t, origins, offset, mask, b, first, n, tap);
      const int64_t at = t * segment.width;
      VSR_BY_WIDTH(scatter, segment.width, g, segment, plane, grad_plane, tap, n, grad_columns + at, columns + at,
                   step, dots)
      for (int64_t p = 0; p < n; ++p) {
        const Corners<T>& d = dots[p];
        along[0][p] = tap.scale[p] * along_y(d, tap.right[p]);
        along[1][p] = tap.scale[p] * along_x(d, tap.down[p]);
        const Corners<T> weights = bilinear(tap.down[p], tap.right[p]);
        along[2][p] = tap.inside[p] *
                      (weights.v00 * d.v00 + weights.v01 * d.v01 + weights.v10 * d.v10 + weights.v11 * d.v11);
      }
      const Strides& s = grad_offset.strides;
      const int64_t channel = g.offset_channel(segment.deform_group, t);
      write(along[0], 1, n, grad_offset, s.at(b, channel, 0, first), s.column);
      write(along[1], 1, n, grad_offset, s.at(b, channel + 1, 0, first), s.column);
      if (grad_mask) {
        const Strides& m = grad_mask->strides;
        write(along[2], 1, n, *grad_mask, m.at(b, g.mask_channel(segment.deform_group, t), 0, first), m.column);
      }
    }
    multiply(length, shape.out_width, n, columns, int64_t(1), step, tile, int64_t(kPanel<T>), shape.out_width,
             grad_weight, shape.out_width);
  }
}

}  // namespace

#define VSR_JOIN2(a, b) a##b
#define VSR_JOIN(a, b) VSR_JOIN2(a, b)
#define VSR_KERNELS(T)                                                                                          \
  template <>                                                                                                   \
  const Kernels<T>& VSR_JOIN(kernels_, VSR_ISA)<T>() {                                                          \
    static constexpr Kernels<T> kernels{kShortest<T>,   kLongest<T>,        kPanel<T>,  pack_plane<T>, unpack_plane<T>, \
                                        pack_weight<T>, pack_transposed<T>, forward<T>, pack_grad<T>,  backward<T>};    \
    return kernels;                                                                                             \
  }

VSR_KERNELS(float)
VSR_KERNELS(double)

}  // namespace vsr
