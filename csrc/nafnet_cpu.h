// Between nafnet_cpu.cpp, which knows tensors and threads, and nafnet_kernels.cpp, which knows neither and is compiled
// once for each instruction set. Tensors are float32 and contiguous: an image is (channels, height, width).
#pragma once

#include <cstdint>

namespace vsr {
namespace naf {

struct Norm {  // over the channels of a pixel
  const float *weight, *bias;
  float eps;
};

struct Matrix {  // a 1x1 convolution
  const float *weight, *bias;  // (outputs, inputs), (outputs)
};

// gate(depthwise3x3(wide(norm(x)))): (c, h, w) -> (c, h, w), with 2c channels between.
struct Mix {
  int64_t channels, height, width;
  Norm norm;
  Matrix wide;                    // c -> 2c
  const float *kernel, *offset;   // the depthwise kernel (2c, 9) and its bias
};

// y = x + beta * narrow(mixed * scale); y + gamma * last(gate(wide(norm(y)))): c channels of `pixels` pixels.
struct Feed {
  int64_t channels, pixels;
  Matrix narrow;                  // c -> c
  const float* beta;
  Norm norm;
  Matrix wide;                    // c -> 2c
  Matrix last;                    // c -> c
  const float* gamma;
};

// pixel_shuffle(1x1 convolution) + skip: (c, h, w) -> (k, 2h, 2w).
struct Up {
  int64_t channels, outputs, height, width;
  const float* weight;  // (4k, c): the 2k rows of left pixels, upper and lower in turns, then those of right ones
};

struct Kernels {
  int64_t (*mix_scratch)(const Mix&);    // floats of scratch memory, as the functions below want them
  int64_t (*feed_scratch)(const Feed&);
  int64_t feed_pixels;                   // pixels that feed() is best called with a multiple of

  // Rows [first, last) of one sample. `between`: where the 2c channels before the depthwise convolution are kept, or null.
  // `sums` (c, h): of each row of the output.
  void (*mix)(const Mix&, const float* x, float* out, float* between, float* sums, int64_t first, int64_t last,
              float* scratch);
  // Pixels [first, last). `scale` (c) or null. `sum` keeps y, `between` the 2c channels before the gate, or they are null.
  void (*feed)(const Feed&, const float* x, const float* mixed, const float* scale, float* out, float* sum,
               float* between, int64_t first, int64_t last, float* scratch);
  // Pixels [first, last) of x.
  int64_t (*up_scratch)(const Up&);
  void (*up)(const Up&, const float* x, const float* skip, float* out, int64_t first, int64_t last, float* scratch);
};

// The way back through feed. Its matrices are turned: (inputs, outputs), times gamma and beta.
struct FeedBack {
  int64_t channels, pixels;
  const float *last, *wide, *narrow;  // (c, c), (c, 2c), (c, c)
  Norm norm;
};

// Of one sample: what the way back reads, and the gradients that it writes.
struct FeedImages {
  const float *grad, *mixed, *scale, *total, *between;  // scale: (c) or null
  float *grad_total, *grad_mixed;
};

// The way back through norm and 1x1 convolution of mix.
struct WideBack {
  int64_t channels, pixels;
  const float* turned;  // (c, 2c)
  Norm norm;
};

struct BackKernels {
  // Pixels [first, last) of one sample. Writes sums over them: of the outer products of matrix outputs' gradients and
  // inputs, last (c, c), wide (2c, c), narrow (c, c), before gamma and beta; of the gradients behind last (c), narrow (c)
  // and wide (2c); of those of the norm's weight and bias (2, c); of scale (c).
  int64_t (*feed_scratch)(int64_t channels);
  void (*feed)(const FeedBack&, const FeedImages&, int64_t first, int64_t last, float* sums, float* scratch);
  // The same: from the gradient of the 2c channels, grad. Sums: the matrix (2c, c), the norm's weight and bias (2, c).
  int64_t (*wide_scratch)(int64_t channels);
  void (*wide)(const WideBack&, const float* x, const float* grad, float* grad_x, int64_t first, int64_t last,
               float* sums, float* scratch);
  // One channel of gate(depthwise3x3(.)): `between` and its gradient are (2c, h, w). The gradient of the output is grad
  // plus `more`, a number for the channel. Writes for channel and channel + c the
  // gradients of kernel (., 9), offset (.) and the sum of the gradient. Scratch: depthwise_scratch floats.
  int64_t (*depthwise_scratch)(const Mix&);
  void (*depthwise)(const Mix&, int64_t channel, const float* grad, float more, const float* between, float* grad_between,
                    float* grad_kernel, float* grad_offset, float* sum, float* scratch);
  // Pixels [first, last) of one sample's x; the weight of Up turned, (c, 4k). Sums: the gradient of the weight.
  int64_t (*up_scratch)(const Up&);
  void (*up)(const Up&, const float* x, const float* grad, float* grad_x, int64_t first, int64_t last, float* sums,
             float* scratch);
};

// Defined once for each instruction set.
const Kernels& kernels_portable();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const BackKernels& back_kernels_portable();
const BackKernels& back_kernels_avx2();
const BackKernels& back_kernels_avx512();

}  // namespace naf
}  // namespace vsr
