// The CUDA kernels of the deformable convolution, each as the phases of one block of threads.
#pragma once

#include "deform_conv_taps.h"

namespace vsr::cuda {

// Shared memory is 128-byte aligned.
template <typename T>
VSR_DEVICE T* part(char* shared, size_t at) {
  return reinterpret_cast<T*>(shared + at);
}

// Output of a tile of pixels and kOutputs channels of one group. Per chunk: sampled columns times weights. While one
// chunk is multiplied the next is sampled and the taps of the one after it are found, so one barrier a chunk suffices;
// the columns never leave shared memory.
template <typename Math_, int kPixels, int kOutputs, int kWidth, int kVector>
struct Forward {
  using Math = Math_;
  using Element = typename Math::Element;
  using Product = cuda::Product<Math, kPixels, kOutputs, false>;
  using State = typename Product::State;
  static constexpr int kBytes = sizeof(Element);
  static constexpr int kColumnsRow = row_length<kBytes>(kWidth), kWeightRow = row_length<kBytes>(kOutputs);
  static constexpr int kOutRow = row_length<4>(kPixels);

  struct Params {
    Inputs in;
    Packing packing;
    int32_t out_tiles;
    const void *weight, *bias;  // weight as `packing` says; bias or null
    Output out;
  };

  template <typename Block>
  static VSR_DEVICE void run(Block& block, const Params& a, int64_t index, char* shared) {
    const Problem& p = a.in.problem;
    const ForwardShared at = forward_shared<kBytes>(kPixels, kOutputs, kWidth, a.in.offset_groups);
    Pixel* pixels = part<Pixel>(shared, at.pixels);
    // Blocks that sample the same pixels follow each other.
    const int out_tile = int(index % a.out_tiles);
    const int group = int(index / a.out_tiles % p.g.groups);
    const int64_t tile = index / a.out_tiles / p.g.groups;
    const int chunks = p.taps * p.parts;

    const auto chunk = [&](int n) { return chunk_at(p, n / p.parts, group, n % p.parts); };
    const auto taps = [&](int n) { return shared + (n % 2 ? at.taps[1] : at.taps[0]); };
    const auto columns = [&](int n) { return part<Element>(shared, n % 2 ? at.columns[1] : at.columns[0]); };
    const auto weight = [&](int n) { return part<Element>(shared, n % 2 ? at.weight[1] : at.weight[0]); };
    const auto prepare = [&](int thread, int n) {  // chunk n; taps of n + 1
      const Chunk c = chunk(n);
      const int64_t row = int64_t(c.part) * kWidth;
      const Element* from = static_cast<const Element*>(a.weight) + a.packing.matrix(p, group, c.tap) +
                            row * a.packing.columns + int64_t(out_tile) * kOutputs;
      copy_matrix<kOutputs>(thread, from, a.packing.columns, kWidth, weight(n));
      sample<Math, kPixels, kWidth, kVector>(thread, a.in, c, taps(n), columns(n));
      if (n + 1 < chunks) find_taps<kPixels, true>(thread, a.in, chunk(n + 1), pixels, taps(n + 1));
    };

    block.phase([&](int thread, State& s) {
      Product::clear(s);
      find_pixels(thread, a.in, tile, kPixels, pixels);
    });
    block.phase([&](int thread, State&) { find_taps<kPixels, true>(thread, a.in, chunk(0), pixels, taps(0)); });
    block.phase([&](int thread, State&) {
      prepare(thread, 0);
      finish_copies();
    });
    for (int n = 0; n < chunks; ++n) {
      block.phase([&](int thread, State& s) {
        if (n + 1 < chunks) prepare(thread, n + 1);
        Product::multiply(thread, s, columns(n), kColumnsRow, weight(n), kWeightRow, kWidth);
        finish_copies();
      });
    }
    float* out = part<float>(shared, at.out);
    block.phase([&](int thread, State& s) { Product::template store<true>(thread, s, out, kOutRow); });
    block.phase([&](int thread, State&) { write_out(thread, a, group, out_tile * kOutputs, pixels, out); });
  }

  static VSR_DEVICE void write_out(int thread, const Params& a, int group, int first, const Pixel* pixels,
                                   const float* out) {
    const Problem& p = a.in.problem;
    each_output<kPixels>(thread, kOutputs, a.out.channels_last, [&](int pixel, int i) {
      const Pixel& at = pixels[pixel];
      if (!at.inside || first + i >= p.group_out) return;
      const int64_t channel = int64_t(group) * p.group_out + first + i;
      float v = out[i * kOutRow + pixel];
      if (a.bias) v += to_float(static_cast<const Element*>(a.bias)[channel]);
      from_float(v, static_cast<Element*>(a.out.data)[a.out.strides.at(at.batch, channel, at.row, at.column)]);
    });
  }
};

// Gradients of input, offset and mask for a tile of pixels and a share of the taps. Per chunk: the gradient of the
// columns, then all that follows from it. Each element of the gradients of offset and mask is written once; that of
// the input is a sum over blocks.
template <typename Math_, int kWidth, int kVector>
struct DataGradient {
  using Math = Math_;
  using Element = typename Math::Element;
  static constexpr int kPixels = kGradientPixels;
  using Product = cuda::Product<Math, kPixels, kWidth, true>;
  using State = typename Product::State;
  static constexpr int kBytes = sizeof(Element);
  static constexpr int kGradRow = row_length<kBytes>(kPixels), kWeightRow = row_length<kBytes>(kWidth);
  static constexpr int kColumnsRow = row_length<4>(kWidth);

  struct Params {
    Inputs in;
    Packing packing;
    int32_t slice, slices, tap_shares;
    Output grad;
    const void* weight;  // as `packing` says
    float* grad_image;          // channels last, zeros at first
    void *grad_offset, *grad_mask;
  };

  template <typename Block>
  static VSR_DEVICE void run(Block& block, const Params& a, int64_t index, char* shared) {
    const Problem& p = a.in.problem;
    const DataShared at = data_shared<kBytes>(kWidth, a.in.offset_groups, a.slice);
    Pixel* pixels = part<Pixel>(shared, at.pixels);
    Element *grad = part<Element>(shared, at.grad), *weight = part<Element>(shared, at.weight);
    float* columns = part<float>(shared, at.columns);
    const int share = int(index % a.tap_shares);
    const int64_t tile = index / a.tap_shares;
    const int first_tap = int(share_begin(p.taps, a.tap_shares, share));
    const int groups = int(p.g.groups), in_tap = groups * p.parts;  // chunks of a tap
    const int chunks = int(share_begin(p.taps, a.tap_shares, share + 1) - first_tap) * in_tap;

    const auto chunk = [&](int n) {
      return chunk_at(p, first_tap + n / in_tap, n % in_tap / p.parts, n % in_tap % p.parts);
    };
    const auto ask_weight = [&](int thread, int n, int slice) {
      const Chunk c = chunk(n);
      const Element* from = static_cast<const Element*>(a.weight) + a.packing.matrix(p, c.group, c.tap) +
                            int64_t(slice) * a.slice * a.packing.columns + int64_t(c.part) * kWidth;
      copy_matrix<kWidth>(thread, from, a.packing.columns, a.slice, weight);
    };
    const auto carry = [&](int n) { return part<Corners<float>>(shared, n % 2 ? at.carry[1] : at.carry[0]); };
    const auto get_gradient = [&](int thread, int group, int slice) {
      read_gradient<Math>(thread, p, a.grad, pixels, group, slice * a.slice, a.slice, grad);
    };

    block.phase([&](int thread, State&) { find_pixels(thread, a.in, tile, kPixels, pixels); });
    for (int n = 0; n < chunks; ++n) {
      const Chunk c = chunk(n);
      for (int slice = 0; slice < a.slices; ++slice) {
        // With one group and one slice the gradient stays, and the weights were asked for in the last phase.
        if (n == 0 || a.slices > 1 || (groups > 1 && c.part == 0)) {
          block.phase([&](int thread, State&) {
            if (n == 0 || slice > 0) ask_weight(thread, n, slice);
            get_gradient(thread, c.group, slice);
            finish_copies();
          });
        }
        block.phase([&](int thread, State& s) {
          if (slice == 0) {
            Product::clear(s);
            find_taps<kPixels, false>(thread, a.in, c, pixels, shared + at.taps);
          }
          Product::multiply(thread, s, grad, kGradRow, weight, kWeightRow, a.slice);
          if (slice + 1 == a.slices) Product::template store<false>(thread, s, columns, kColumnsRow);
        });
      }
      block.phase([&](int thread, State&) {
        if (n + 1 < chunks) ask_weight(thread, n + 1, 0);
        spread(thread, a, c, pixels, shared + at.taps, columns, carry(n), carry(n + 1));
        finish_copies();
      });
    }
  }

  // From the gradient of the columns of a chunk to those of input, offset and mask. One thread has all channels of a
  // deformable group that are in the chunk; if more follow in the next chunk it carries the sums over.
  static VSR_DEVICE void spread(int thread, const Params& a, const Chunk& chunk, const Pixel* pixels, char* taps,
                                const float* columns, const Corners<float>* carried, Corners<float>* carry) {
    const Problem& p = a.in.problem;
    const int64_t step = p.g.in_channels, line = p.g.width * step;
    for (int i = thread; i < kPixels * chunk.offset_groups; i += kThreads) {
      const int pixel = i / chunk.offset_groups, local = i % chunk.offset_groups;
      if (!pixels[pixel].inside) continue;
      const Tap tap = stored_tap(taps, pixel, a.in.offset_groups, local);
      const float down = tap.number[0], right = tap.number[1];
      const Corners<float> weights = bilinear(down, right);
      const int group_first = (chunk.first_offset_group + local) * p.offset_in, group_last = group_first + p.offset_in;
      const int chunk_last = chunk.first + chunk.channels;
      const int first = group_first > chunk.first ? group_first : chunk.first;
      const int last = group_last < chunk_last ? group_last : chunk_last;
      // Sums over the channels of the columns' gradient times each of the four pixels: all else is linear in them.
      Corners<float> sums = first > group_first ? carried[pixel] : Corners<float>{0, 0, 0, 0};
      for (int channel = first; channel < last; channel += kVector) {
        const int64_t from = tap.base * step + channel;
        const auto grad = vector_at<kVector>(columns + pixel * kColumnsRow + channel - chunk.first);
        Vector<Element, kVector> v[4];
        read_corners(static_cast<const Element*>(a.in.image) + from, step, line, tap.corners, v);
        sums.v00 += dot(grad, v[0]);
        sums.v01 += dot(grad, v[1]);
        sums.v10 += dot(grad, v[2]);
        sums.v11 += dot(grad, v[3]);
        const float shares[4] = {weights.v00, weights.v01, weights.v10, weights.v11};
        VSR_UNROLL
        for (int n = 0; n < 4; ++n) {
          if (!(tap.corners >> n & 1)) continue;
          float given[kVector];
          VSR_UNROLL
          for (int k = 0; k < kVector; ++k) given[k] = grad.at[k] * tap.mask * shares[n];
          add(a.grad_image + from + (n % 2) * step + (n / 2) * line, given);
        }
      }
      if (last < group_last) {
        carry[pixel] = sums;
      } else {
        finish(a, pixels[pixel], chunk, chunk.first_offset_group + local, tap, weights, sums);
      }
    }
  }

  static VSR_DEVICE void finish(const Params& a, const Pixel& at, const Chunk& chunk, int group, const Tap& tap,
                                const Corners<float>& weights, const Corners<float>& sums) {
    const Geometry& g = a.in.problem.g;
    const int64_t channel = g.offset_channel(group, chunk.tap);
    const float dy = tap.mask * along_y(sums, tap.number[1]), dx = tap.mask * along_x(sums, tap.number[0]);
    write(a.grad_offset, offset_at(g, at.batch, channel, at.row, at.column), a.in.offset_type, dy);
    write(a.grad_offset, offset_at(g, at.batch, channel + 1, at.row, at.column), a.in.offset_type, dx);
    if (a.in.mask) {
      const float v = weights.v00 * sums.v00 + weights.v01 * sums.v01 + weights.v10 * sums.v10 + weights.v11 * sums.v11;
      write(a.grad_mask, mask_at(g, at.batch, g.mask_channel(group, chunk.tap), at.row, at.column), a.in.mask_type, v);
    }
  }

  static VSR_DEVICE float dot(const Vector<float, kVector>& grad, const Vector<Element, kVector>& v) {
    float sum = 0;
    VSR_UNROLL
    for (int k = 0; k < kVector; ++k) sum += grad.at[k] * to_float(v.at[k]);
    return sum;
  }
};

// Gradient of the weight for a chunk, kGradientOutputs output channels and a share of the pixels: sampled anew, because
// the columns of the other kernel are gone, and because here the sums stay in registers. `ReduceWeight` adds the
// shares, in order.
template <typename Math_, int kWidth, int kVector>
struct WeightGradient {
  using Math = Math_;
  using Element = typename Math::Element;
  static constexpr int kPixels = kGradientPixels;
  using Product = cuda::Product<Math, kGradientOutputs, kWidth, false>;
  using State = typename Product::State;
  static constexpr int kBytes = sizeof(Element);
  static constexpr int kGradRow = row_length<kBytes>(kPixels), kColumnsRow = row_length<kBytes>(kWidth);

  struct Params {
    Inputs in;
    Packing packing;
    int32_t out_tiles, shares;
    Output grad;
    float* partial;  // (shares, size of `packing`)
  };

  template <typename Block>
  static VSR_DEVICE void run(Block& block, const Params& a, int64_t index, char* shared) {
    const Problem& p = a.in.problem;
    const WeightShared at = weight_shared<kBytes>(kWidth, a.in.offset_groups);
    Pixel* pixels = part<Pixel>(shared, at.pixels);
    Element *grad = part<Element>(shared, at.grad), *columns = part<Element>(shared, at.columns);
    const int out_tile = int(index % a.out_tiles);
    index /= a.out_tiles;
    const int in_tap = int(p.g.groups) * p.parts;
    const int n = int(index % (int64_t(in_tap) * p.taps));
    const int64_t share = index / (int64_t(in_tap) * p.taps);
    const Chunk c = chunk_at(p, n / in_tap, n % in_tap / p.parts, n % in_tap % p.parts);
    const int64_t first = share_begin(a.in.tiling.count, a.shares, share);
    const int64_t last = share_begin(a.in.tiling.count, a.shares, share + 1);

    block.phase([&](int thread, State& s) {
      Product::clear(s);
      find_pixels(thread, a.in, first, kPixels, pixels);  // a share has a tile at least
    });
    for (int64_t tile = first; tile < last; ++tile) {
      block.phase([&](int thread, State&) {
        find_taps<kPixels, true>(thread, a.in, c, pixels, shared + at.taps);
        read_gradient<Math>(thread, p, a.grad, pixels, c.group, out_tile * kGradientOutputs, kGradientOutputs, grad);
      });
      block.phase([&](int thread, State&) {
        sample<Math, kPixels, kWidth, kVector>(thread, a.in, c, shared + at.taps, columns);
      });
      block.phase([&](int thread, State& s) {
        Product::multiply(thread, s, grad, kGradRow, columns, kColumnsRow, kPixels);
        if (tile + 1 < last) find_pixels(thread, a.in, tile + 1, kPixels, pixels);
      });
    }
    block.phase([&](int thread, State& s) {
      float* to = a.partial + share * a.packing.size(p) + a.packing.matrix(p, c.group, c.tap) +
                  int64_t(c.part) * kWidth * a.packing.columns + int64_t(out_tile) * kGradientOutputs;
      Product::template store<true>(thread, s, to, int(a.packing.columns));
    });
  }
};

struct NoState {};

// Sum of the shares; a block has kThreads elements of the packed matrices.
template <typename Element>
struct ReduceWeight {
  using State = NoState;
  struct Params {
    Problem problem;
    Packing packing;
    int32_t shares;
    const float* partial;
    void* grad_weight;
  };

  template <typename Block>
  static VSR_DEVICE void run(Block& block, const Params& a, int64_t index, char*) {
    block.phase([&](int thread, State&) {
      const Problem& p = a.problem;
      const int64_t size = a.packing.size(p), at = index * kThreads + thread;
      if (at >= size) return;
      const int64_t out = at % a.packing.columns, in = at / a.packing.columns % a.packing.rows;
      const int64_t matrix = at / a.packing.columns / a.packing.rows;
      if (out >= p.group_out || in >= p.group_in) return;
      float sum = 0;
      for (int64_t share = 0; share < a.shares; ++share) sum += a.partial[share * size + at];
      from_float(sum, static_cast<Element*>(a.grad_weight)[weight_at(p, matrix / p.taps, out, in, matrix % p.taps)]);
    });
  }
};

// Weights (o, c / groups, kh, kw) to the padded matrices that the kernels read: kInputRows, or output rows.
template <typename Math, bool kInputRows>
struct PackWeight {
  using State = NoState;
  using Element = typename Math::Element;
  struct Params {
    Problem problem;
    Packing packing;
    const void* weight;
    void* packed;
  };

  template <typename Block>
  static VSR_DEVICE void run(Block& block, const Params& a, int64_t index, char*) {
    block.phase([&](int thread, State&) {
      const Problem& p = a.problem;
      const int64_t at = index * kThreads + thread;
      if (at >= a.packing.size(p)) return;
      const int64_t column = at % a.packing.columns, row = at / a.packing.columns % a.packing.rows;
      const int64_t matrix = at / a.packing.columns / a.packing.rows;
      const int64_t in = kInputRows ? row : column, out = kInputRows ? column : row;
      float v = 0;
      if (in < p.group_in && out < p.group_out)
        v = to_float(static_cast<const Element*>(a.weight)[weight_at(p, matrix / p.taps, out, in, matrix % p.taps)]);
      static_cast<Element*>(a.packed)[at] = Math::make(v);
    });
  }
};

// (matrices, rows, columns) to (matrices, columns, rows), by squares of 32, with a change of type on the way: an image
// to channels last, and its gradient back.
template <typename From, typename To>
struct Transpose {
  using State = NoState;
  static constexpr int kSide = 32;
  struct Params {
    int64_t rows, columns;
    const void* from;
    void* to;
  };

  static size_t shared_bytes() { return kSide * (kSide + 1) * sizeof(From); }
  static int64_t blocks(const Params& a, int64_t matrices) {
    return matrices * divide_up(a.rows, kSide) * divide_up(a.columns, kSide);
  }

  template <typename Block>
  static VSR_DEVICE void run(Block& block, const Params& a, int64_t index, char* shared) {
    const int64_t across = divide_up(a.columns, kSide), down = divide_up(a.rows, kSide);
    const int64_t first_column = index % across * kSide, first_row = index / across % down * kSide;
    const int64_t matrix = index / across / down * a.rows * a.columns;
    From* square = part<From>(shared, 0);
    block.phase([&](int thread, State&) {
      for (int y = thread / kSide; y < kSide; y += kThreads / kSide) {
        const int64_t row = first_row + y, column = first_column + thread % kSide;
        if (row < a.rows && column < a.columns)
          square[y * (kSide + 1) + thread % kSide] =
              static_cast<const From*>(a.from)[matrix + row * a.columns + column];
      }
    });
    block.phase([&](int thread, State&) {
      for (int x = thread / kSide; x < kSide; x += kThreads / kSide) {
        const int64_t row = first_row + thread % kSide, column = first_column + x;
        if (row < a.rows && column < a.columns)
          from_float(to_float(square[thread % kSide * (kSide + 1) + x]),
                     static_cast<To*>(a.to)[matrix + column * a.rows + row]);
      }
    });
  }
};

}  // namespace vsr::cuda
