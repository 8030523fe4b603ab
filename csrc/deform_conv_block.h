// A block of threads as the CUDA kernels of the deformable convolution see it: phases between barriers, number types,
// copies, sums in memory, products of small matrices.
//
// Under nvcc these are the GPU's own. Any other compiler gets a stand-in that runs the same phases thread by thread,
// with shared memory as a plain array: so the kernels' indices, layouts and barriers are tested without a GPU. On
// request the threads run in another order (`thread_order`): a missing barrier then changes the result. What the
// stand-in cannot show is the tensor cores' own arithmetic, and anything about time.
#pragma once

#include <cmath>
#include <cstring>

#include "deform_conv_launch.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <mma.h>
#define VSR_DEVICE __device__ __forceinline__
#define VSR_PRAGMA(words) _Pragma(#words)
#define VSR_UNROLL VSR_PRAGMA(unroll)
#define VSR_UNROLL_BY(n) VSR_PRAGMA(unroll n)
#else
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <vector>
#define VSR_DEVICE inline
#define VSR_UNROLL
#define VSR_UNROLL_BY(n)
#endif

namespace vsr::cuda {

// ---- phases ---------------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)

template <typename State>
class Block {
 public:
  // Run f(thread, state of the thread) in every thread, then wait for all.
  template <typename F>
  VSR_DEVICE void phase(F f) {
    f(int(threadIdx.x), state_);
    __syncthreads();
  }

 private:
  State state_;
};

VSR_DEVICE void copy_16_bytes(void* to, const void* from) { __pipeline_memcpy_async(to, from, 16); }
VSR_DEVICE void finish_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

#else

enum class ThreadOrder { rising, falling, scattered };
inline ThreadOrder thread_order = ThreadOrder::rising;
struct Copy {
  void* to;
  const void* from;
};
inline thread_local std::vector<Copy> copies;  // asked for, not done

inline void copy_16_bytes(void* to, const void* from) { copies.push_back({to, from}); }
inline void finish_copies() {
  for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, 16);
  copies.clear();
}

template <typename State>
class Block {
 public:
  Block() : states_(kThreads) {}
  template <typename F>
  void phase(F f) {
    for (int n = 0; n < kThreads; ++n) {
      const int scattered = n * 37 % kThreads;  // 37 and 128 have no common divisor
      const int thread = thread_order == ThreadOrder::rising    ? n
                         : thread_order == ThreadOrder::falling ? kThreads - 1 - n
                                                                : scattered;
      f(thread, states_[thread]);
    }
  }

 private:
  std::vector<State> states_;
};

#endif

// ---- numbers --------------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)
using BFloat16 = __nv_bfloat16;
using Half = __half;
VSR_DEVICE float to_float(BFloat16 v) { return __bfloat162float(v); }
VSR_DEVICE float to_float(Half v) { return __half2float(v); }
VSR_DEVICE void from_float(float v, BFloat16& to) { to = __float2bfloat16_rn(v); }
VSR_DEVICE void from_float(float v, Half& to) { to = __float2half_rn(v); }
VSR_DEVICE float round_to_tf32(float v) { return nvcuda::wmma::__float_to_tf32(v); }
#else
using BFloat16 = c10::BFloat16;
using Half = c10::Half;
inline float to_float(BFloat16 v) { return v; }
inline float to_float(Half v) { return v; }
inline void from_float(float v, BFloat16& to) { to = v; }
inline void from_float(float v, Half& to) { to = v; }
inline float round_to_tf32(float v) {  // 10 bits of fraction, ties away from zero
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&v, &bits, 4);
  return v;
}
#endif
VSR_DEVICE float to_float(float v) { return v; }
VSR_DEVICE void from_float(float v, float& to) { to = v; }

// Ways to multiply: the type in memory, and the unit. Sums are float32 in all.
struct Fp32 {
  using Element = float;
  static constexpr bool kTensorCores = false;
  static VSR_DEVICE float make(float v) { return v; }
};
struct Tf32 {
  using Element = float;
  static constexpr bool kTensorCores = true;
  static VSR_DEVICE float make(float v) { return round_to_tf32(v); }
};
struct Bf16 {
  using Element = BFloat16;
  static constexpr bool kTensorCores = true;
  static VSR_DEVICE BFloat16 make(float v) {
    BFloat16 r;
    from_float(v, r);
    return r;
  }
};
struct Fp16 {
  using Element = Half;
  static constexpr bool kTensorCores = true;
  static VSR_DEVICE Half make(float v) {
    Half r;
    from_float(v, r);
    return r;
  }
};

// A number of a tensor whose type is known at run time only: offsets, masks and their gradients.
enum class Scalar : int32_t { float32, bfloat16, float16, float64 };

VSR_DEVICE float read(const void* data, int64_t at, Scalar type) {
  switch (type) {
    case Scalar::bfloat16:
      return to_float(static_cast<const BFloat16*>(data)[at]);
    case Scalar::float16:
      return to_float(static_cast<const Half*>(data)[at]);
    case Scalar::float64:
      return float(static_cast<const double*>(data)[at]);
    default:
      return static_cast<const float*>(data)[at];
  }
}

VSR_DEVICE void write(void* data, int64_t at, Scalar type, float v) {
  switch (type) {
    case Scalar::bfloat16:
      return from_float(v, static_cast<BFloat16*>(data)[at]);
    case Scalar::float16:
      return from_float(v, static_cast<Half*>(data)[at]);
    case Scalar::float64:
      static_cast<double*>(data)[at] = v;
      return;
    default:
      static_cast<float*>(data)[at] = v;
  }
}

// ---- vectors --------------------------------------------------------------------------------------------------------

template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vector {
  T at[N];
};

// From global memory that no thread writes meanwhile.
template <int N, typename T>
VSR_DEVICE Vector<T, N> load(const T* from) {
  Vector<T, N> v;
#if defined(__CUDACC__)
  if constexpr (sizeof(v) == 16) {
    const uint4 raw = __ldg(reinterpret_cast<const uint4*>(from));
    memcpy(&v, &raw, 16);
    return v;
  }
#endif
  v = *reinterpret_cast<const Vector<T, N>*>(from);
  return v;
}

template <int N, typename T>
VSR_DEVICE Vector<T, N>& vector_at(T* shared) {
  return *reinterpret_cast<Vector<T, N>*>(shared);
}
template <int N, typename T>
VSR_DEVICE const Vector<T, N>& vector_at(const T* shared) {
  return *reinterpret_cast<const Vector<T, N>*>(shared);
}

// Add to global memory that other blocks add to as well: the order, so the last bit, changes from run to run.
template <int N>
VSR_DEVICE void add(float* to, const float (&v)[N]) {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 900
  if constexpr (N % 4 == 0) {
    VSR_UNROLL
    for (int i = 0; i < N; i += 4)
      atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
  } else
#endif
  {
    VSR_UNROLL
    for (int i = 0; i < N; ++i) atomicAdd(to + i, v[i]);
  }
#else
  for (int i = 0; i < N; ++i) to[i] += v[i];
#endif
}

// ---- products -------------------------------------------------------------------------------------------------------

// C (M, N) += A (M, K) B (K, N) by all threads of a block; A and B in shared memory, C in the threads' State. A lies row
// by row, or (kColumnsOfA) column by column; B row by row; K is a multiple of 16. `store` writes C row by row, or
// (kByColumns) column by column.
template <typename Math, int M, int N, bool kColumnsOfA, bool = Math::kTensorCores>
struct Product;

// float32 on the ordinary cores: each thread has kRows rows by four neighbouring columns.
template <typename Math, int M, int N, bool kColumnsOfA>
struct Product<Math, M, N, kColumnsOfA, false> {
  static constexpr int kAcross = N / 4, kDown = kThreads / kAcross, kRows = M / kDown;
  static constexpr int kRun = kColumnsOfA ? (kRows < 4 ? kRows : 4) : 1;  // rows of a thread that are neighbours
  static_assert(kDown * kAcross == kThreads && kRows * kDown == M && kRows % kRun == 0);

  struct State {
    float sum[kRows][4];
  };

  // The threads of a warp cover 4 by 8 of the grid (8 by 4 of a narrow one): so they share most of what they read.
  static constexpr int kLane = kAcross < 8 ? kAcross : 8, kWarps = kAcross / kLane;
  static VSR_DEVICE int across(int thread) { return thread % kLane + thread / 32 % kWarps * kLane; }
  static VSR_DEVICE int down(int thread) { return thread % 32 / kLane + thread / 32 / kWarps * (32 / kLane); }
  static VSR_DEVICE int row(int thread, int r) { return r / kRun * kRun * kDown + down(thread) * kRun + r % kRun; }

  static VSR_DEVICE void clear(State& s) {
    VSR_UNROLL
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < 4; ++c) s.sum[r][c] = 0;
  }

  static VSR_DEVICE void multiply(int thread, State& s, const float* a, int lda, const float* b, int ldb, int k) {
    const int column = across(thread) * 4;
    if constexpr (kColumnsOfA) {
      VSR_UNROLL_BY(4)
      for (int i = 0; i < k; ++i) {
        const Vector<float, 4> from_b = vector_at<4>(b + i * ldb + column);
        VSR_UNROLL
        for (int r = 0; r < kRows; r += kRun) {
          const Vector<float, kRun> from_a = vector_at<kRun>(a + i * lda + row(thread, r));
          VSR_UNROLL
          for (int n = 0; n < kRun; ++n) add_row(s.sum[r + n], from_a.at[n], from_b);
        }
      }
    } else {
      VSR_UNROLL_BY(2)
      for (int i = 0; i < k; i += 4) {
        Vector<float, 4> from_b[4];
        VSR_UNROLL
        for (int n = 0; n < 4; ++n) from_b[n] = vector_at<4>(b + (i + n) * ldb + column);
        VSR_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const Vector<float, 4> from_a = vector_at<4>(a + row(thread, r) * lda + i);
          VSR_UNROLL
          for (int n = 0; n < 4; ++n) add_row(s.sum[r], from_a.at[n], from_b[n]);
        }
      }
    }
  }

  template <bool kByColumns>
  static VSR_DEVICE void store(int thread, const State& s, float* c, int ldc) {
    const int column = across(thread) * 4;
    VSR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int i = row(thread, r);
      VSR_UNROLL
      for (int n = 0; n < 4; ++n)
        c[kByColumns ? int64_t(column + n) * ldc + i : int64_t(i) * ldc + column + n] = s.sum[r][n];
    }
  }

 private:
  static VSR_DEVICE void add_row(float (&sum)[4], float a, const Vector<float, 4>& b) {
    VSR_UNROLL
    for (int c = 0; c < 4; ++c) sum[c] += a * b.at[c];
  }
};

// Tensor cores: each of the four warps has a rectangle of 16 x 16 tiles.
template <typename Math, int M, int N, bool kColumnsOfA>
struct Product<Math, M, N, kColumnsOfA, true> {
  using Element = typename Math::Element;
  static constexpr int kWarpsAcross = N >= 32 ? 2 : 1, kWarpsDown = 4 / kWarpsAcross;
  static constexpr int kDown = M / 16 / kWarpsDown, kAcross = N / 16 / kWarpsAcross;  // tiles of a warp
  static constexpr int kDepth = sizeof(Element) == 4 ? 8 : 16;
  static_assert(kDown * kWarpsDown * 16 == M && kAcross * kWarpsAcross * 16 == N && kThreads == 128);

  static VSR_DEVICE int first_row(int thread) { return thread / 32 / kWarpsAcross * kDown * 16; }
  static VSR_DEVICE int first_column(int thread) { return thread / 32 % kWarpsAcross * kAcross * 16; }

#if defined(__CUDACC__)
  using Operand = std::conditional_t<sizeof(Element) == 4, nvcuda::wmma::precision::tf32, Element>;
  using OrderOfA = std::conditional_t<kColumnsOfA, nvcuda::wmma::col_major, nvcuda::wmma::row_major>;
  using A = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, kDepth, Operand, OrderOfA>;
  using B = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, kDepth, Operand, nvcuda::wmma::row_major>;
  using C = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, kDepth, float>;

  struct State {
    C sum[kDown][kAcross];
  };

  static VSR_DEVICE void clear(State& s) {
    VSR_UNROLL
    for (int y = 0; y < kDown; ++y)
      for (int x = 0; x < kAcross; ++x) nvcuda::wmma::fill_fragment(s.sum[y][x], 0.f);
  }

  static VSR_DEVICE void multiply(int thread, State& s, const Element* a, int lda, const Element* b, int ldb, int k) {
    __syncwarp();  // the threads come here from loops of different lengths
    a += first_row(thread) * (kColumnsOfA ? 1 : lda);
    b += first_column(thread);
    VSR_UNROLL_BY(2)
    for (int i = 0; i < k; i += kDepth) {
      A from_a[kDown];
      VSR_UNROLL
      for (int y = 0; y < kDown; ++y)
        nvcuda::wmma::load_matrix_sync(from_a[y], a + (kColumnsOfA ? i * lda + y * 16 : y * 16 * lda + i), lda);
      VSR_UNROLL
      for (int x = 0; x < kAcross; ++x) {
        B from_b;
        nvcuda::wmma::load_matrix_sync(from_b, b + i * ldb + x * 16, ldb);
        VSR_UNROLL
        for (int y = 0; y < kDown; ++y) nvcuda::wmma::mma_sync(s.sum[y][x], from_a[y], from_b, s.sum[y][x]);
      }
    }
  }

  template <bool kByColumns>
  static VSR_DEVICE void store(int thread, const State& s, float* c, int ldc) {
    __syncwarp();
    constexpr auto order = kByColumns ? nvcuda::wmma::mem_col_major : nvcuda::wmma::mem_row_major;
    VSR_UNROLL
    for (int y = 0; y < kDown; ++y) {
      VSR_UNROLL
      for (int x = 0; x < kAcross; ++x) {
        const int64_t row = first_row(thread) + y * 16, column = first_column(thread) + x * 16;
        float* to = c + (kByColumns ? column * ldc + row : row * ldc + column);
        nvcuda::wmma::store_matrix_sync(to, s.sum[y][x], ldc, order);
      }
    }
  }
#else
  // Each of a warp's threads has 8 elements of a tile (which ones on a GPU, is the GPU's business).
  struct State {
    float sum[kDown][kAcross][8];
  };

  static void clear(State& s) { std::memset(&s, 0, sizeof(s)); }

  static void multiply(int thread, State& s, const Element* a, int lda, const Element* b, int ldb, int k) {
    each(thread, [&](int y, int x, int e, int row, int column) {
      for (int i = 0; i < k; ++i)
        s.sum[y][x][e] += to_float(kColumnsOfA ? a[i * lda + row] : a[row * lda + i]) * to_float(b[i * ldb + column]);
    });
  }

  template <bool kByColumns>
  static void store(int thread, const State& s, float* c, int ldc) {
    each(thread, [&](int y, int x, int e, int row, int column) {
      c[kByColumns ? int64_t(column) * ldc + row : int64_t(row) * ldc + column] = s.sum[y][x][e];
    });
  }

 private:
  template <typename F>
  static void each(int thread, F f) {
    for (int y = 0; y < kDown; ++y)
      for (int x = 0; x < kAcross; ++x)
        for (int e = 0; e < 8; ++e) {
          const int i = thread % 32 * 8 + e;
          f(y, x, e, first_row(thread) + y * 16 + i / 16, first_column(thread) + x * 16 + i % 16);
        }
  }
#endif
};

}  // namespace vsr::cuda
