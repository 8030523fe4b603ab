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

// Where the gradient of a norm goes: of its input (plus `added`, if there is one), and once more the norm's output.
struct NormGradients {
  const float* added;
  float *input, *output;
};

struct Kernels {
  int64_t (*mix_scratch)(const Mix&);    // floats of scratch memory, as the functions below want them
  int64_t (*feed_scratch)(const Feed&);
  int64_t feed_pixels;                   // pixels that feed() is best called with a multiple of

  // Rows [first, last) of one sample. `between`: where the 2c channels before the depthwise convolution are kept, or null.
  void (*mix)(const Mix&, const float* x, float* out, float* between, int64_t first, int64_t last, float* scratch);
  // Pixels [first, last). `scale` (c) or null. `sum` keeps y, `between` the 2c channels before the gate, or they are null.
  void (*feed)(const Feed&, const float* x, const float* mixed, const float* scale, float* out, float* sum,
               float* between, int64_t first, int64_t last, float* scratch);

  // Pixels [first, last) of one sample of (channels, pixels). Writes the sums over these pixels for weight and bias,
  // (2, channels). Scratch: norm_scratch floats a channel.
  int64_t norm_scratch;
  void (*norm_backward)(const Norm&, int64_t channels, int64_t pixels, const float* x, const float* grad,
                        const NormGradients&, float* sums, int64_t first, int64_t last, float* scratch);
  // One channel of gate(.): from its gradient and both factors, the product and the factors' gradients with their sums.
  void (*gate_backward)(int64_t pixels, const float* grad, const float* one, const float* other, float* product,
                        float* grad_one, float* grad_other, float* sum_one, float* sum_other);
  // One channel of gate(depthwise3x3(.)): `between` and its gradient are (2c, h, w). Writes for channel and channel + c the
  // gradients of kernel (., 9), offset (.) and the sum of the gradient. Scratch: mix_backward_scratch floats.
  int64_t (*mix_backward_scratch)(const Mix&);
  void (*mix_backward)(const Mix&, int64_t channel, const float* grad, const float* between, float* grad_between,
                       float* grad_kernel, float* grad_offset, float* sum, float* scratch);
};

// Defined once for each instruction set.
const Kernels& kernels_portable();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();

}  // namespace naf
}  // namespace vsr
