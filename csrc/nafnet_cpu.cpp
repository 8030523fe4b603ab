// NAFNet's block on the CPU: the ops vsr::naf_* that vsr/ops/naf_block.py defines, for float32.
//
// Forward: a tile of pixels goes through norm, 1x1 convolutions and gates while it stays in the cache. Threads share
// the pixels out; each pixel is computed alike wherever the shares begin, and sums are formed in runs of a fixed length,
// so that results do not depend on the number of threads.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "nafnet_cpu.h"

extern "C" const char* vsr_cpu_isa();  // deform_conv_cpu.cpp

namespace vsr {
namespace naf {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kRun = 4096;  // pixels whose sums are formed at once

const Kernels& kernels() {
  static const std::string isa = [] {
    const char* name = vsr_cpu_isa();
    STD_TORCH_CHECK(name != nullptr, "VSR_CPU_ISA: expected portable, avx2 or avx512, and no more than this CPU offers.");
    return std::string(name);
  }();
#if defined(__x86_64__)
  if (isa == "avx512") return kernels_avx512();
  if (isa == "avx2") return kernels_avx2();
#endif
  return kernels_portable();
}

class Buffer {  // floats aligned to a cache line, not initialised
 public:
  explicit Buffer(int64_t floats) : data_(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 127) / 64 * 64))) {
    STD_TORCH_CHECK(data_ != nullptr, "naf: no memory for ", floats, " numbers.");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  float* get() const { return data_; }

 private:
  float* data_;
};

Tensor empty(std::vector<int64_t> sizes, const Tensor& like) {
  return torch::stable::empty(IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), ScalarType::Float, std::nullopt,
                              like.device());
}

Tensor alike(const Tensor& t) { return empty({t.size(0), t.size(1), t.size(2), t.size(3)}, t); }

// Holds contiguous copies, where they are needed, as long as their pointers are used.
class Inputs {
 public:
  const float* image(const Tensor& t, int64_t batch, int64_t channels, int64_t height, int64_t width) {
    STD_TORCH_CHECK(t.dim() == 4 && t.size(0) == batch && t.size(1) == channels && t.size(2) == height &&
                        t.size(3) == width,
                    "naf: the images do not have one size, or not the channels that the weights ask for.");
    return keep(t);
  }
  const float* weights(const Tensor& t, int64_t number) {
    STD_TORCH_CHECK(t.numel() == number, "naf: the weights do not fit the channels of the image.");
    return keep(t);
  }

 private:
  const float* keep(const Tensor& t) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, "naf: expected float32.");
    kept_.push_back(torch::stable::contiguous(t));
    return static_cast<const float*>(kept_.back().const_data_ptr());
  }
  std::vector<Tensor> kept_;
};

float* data(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

void check(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(0) > 0 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
                  "naf: expected an image (b, c, h, w) with channels and pixels.");
}

// Calls work(sample, first, last) for shares of the `units` (rows or pixels) of each sample, `step` of them at least.
template <typename Work>
void share_out(int64_t batch, int64_t units, int64_t step, const Work& work) {
  const int64_t threads = torch::stable::get_num_threads(), steps = (units + step - 1) / step;
  const int64_t shares = std::min(steps, (threads + batch - 1) / batch);
  torch::stable::parallel_for(0, batch * shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t share = i % shares;
      work(i / shares, share * steps / shares * step, std::min(units, (share + 1) * steps / shares * step));
    }
  });
}

std::tuple<Tensor, Tensor> naf_mix(Tensor x, Tensor norm_weight, Tensor norm_bias, double eps, Tensor weight,
                                   Tensor bias, Tensor kernel, Tensor offset, bool keep) {
  check(x);
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  Inputs in;
  const float* from = in.image(x, b, c, h, w);
  const Mix mix{c, h, w, {in.weights(norm_weight, c), in.weights(norm_bias, c), float(eps)},
                {in.weights(weight, 2 * c * c), in.weights(bias, 2 * c)}, in.weights(kernel, 18 * c),
                in.weights(offset, 2 * c)};
  const Kernels& k = kernels();
  const Tensor out = empty({b, c, h, w}, x), between = keep ? empty({b, 2 * c, h, w}, x) : empty({0}, x);
  float *to = data(out), *kept = keep ? data(between) : nullptr;
  share_out(b, h, 1 + 512 / w, [&](int64_t sample, int64_t first, int64_t last) {
    const Buffer scratch(k.mix_scratch(mix));
    k.mix(mix, from + sample * c * h * w, to + sample * c * h * w, keep ? kept + 2 * sample * c * h * w : nullptr,
          first, last, scratch.get());
  });
  return {out, between};
}

std::tuple<Tensor, Tensor, Tensor> naf_feed(Tensor x, Tensor mixed, std::optional<Tensor> scale, Tensor narrow_weight,
                                            Tensor narrow_bias, Tensor beta, Tensor norm_weight, Tensor norm_bias,
                                            double eps, Tensor wide_weight, Tensor wide_bias, Tensor last_weight,
                                            Tensor last_bias, Tensor gamma, bool keep) {
  check(x);
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), size = c * h * w;
  Inputs in;
  const float *from = in.image(x, b, c, h, w), *branch = in.image(mixed, b, c, h, w);
  const float* factors = scale ? in.weights(*scale, b * c) : nullptr;
  const Feed feed{c, h * w,
                  {in.weights(narrow_weight, c * c), in.weights(narrow_bias, c)}, in.weights(beta, c),
                  {in.weights(norm_weight, c), in.weights(norm_bias, c), float(eps)},
                  {in.weights(wide_weight, 2 * c * c), in.weights(wide_bias, 2 * c)},
                  {in.weights(last_weight, c * c), in.weights(last_bias, c)}, in.weights(gamma, c)};
  const Kernels& k = kernels();
  const Tensor out = empty({b, c, h, w}, x), sum = keep ? empty({b, c, h, w}, x) : empty({0}, x);
  const Tensor between = keep ? empty({b, 2 * c, h, w}, x) : empty({0}, x);
  float *to = data(out), *to_sum = keep ? data(sum) : nullptr, *kept = keep ? data(between) : nullptr;
  share_out(b, h * w, k.feed_pixels, [&](int64_t sample, int64_t first, int64_t last) {
    const Buffer scratch(k.feed_scratch(feed));
    k.feed(feed, from + sample * size, branch + sample * size, factors ? factors + sample * c : nullptr,
           to + sample * size, keep ? to_sum + sample * size : nullptr, keep ? kept + 2 * sample * size : nullptr, first,
           last, scratch.get());
  });
  return {out, sum, between};
}

// Adds up rows of `number` sums.
Tensor add_rows(const Buffer& sums, int64_t rows, int64_t number, std::vector<int64_t> sizes, const Tensor& like) {
  const Tensor total = empty(sizes, like);
  float* to = data(total);
  std::fill_n(to, number, 0.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < number; ++i) to[i] += sums.get()[row * number + i];
  return total;
}

std::tuple<Tensor, Tensor, Tensor> naf_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, double eps,
                                                     std::optional<Tensor> added) {
  check(x);
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), pixels = h * w, size = c * pixels;
  Inputs in;
  const float *from = in.image(x, b, c, h, w), *g = in.image(grad, b, c, h, w);
  const float* more = added ? in.image(*added, b, c, h, w) : nullptr;
  const Norm norm{in.weights(weight, c), in.weights(bias, c), float(eps)};
  const Kernels& k = kernels();
  const Tensor grad_x = alike(x), out = alike(x);
  float *to = data(grad_x), *normal = data(out);
  const int64_t runs = (pixels + kRun - 1) / kRun;
  const Buffer sums(b * runs * 2 * c);
  torch::stable::parallel_for(0, b * runs, 1, [&](int64_t begin, int64_t end) {
    const Buffer scratch(k.norm_scratch * c);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i / runs * size, first = i % runs * kRun;
      k.norm_backward(norm, c, pixels, from + at, g + at, {more ? more + at : nullptr, to + at, normal + at},
                      sums.get() + i * 2 * c, first, std::min(pixels, first + kRun), scratch.get());
    }
  });
  return {grad_x, out, add_rows(sums, b * runs, 2 * c, {2, c}, x)};
}

std::tuple<Tensor, Tensor, Tensor> naf_gate_backward(Tensor grad, Tensor between) {
  check(grad);
  const int64_t b = grad.size(0), c = grad.size(1), h = grad.size(2), w = grad.size(3), pixels = h * w;
  Inputs in;
  const float *g = in.image(grad, b, c, h, w), *from = in.image(between, b, 2 * c, h, w);
  const Kernels& k = kernels();
  const Tensor product = alike(grad), grad_between = empty({b, 2 * c, h, w}, grad);
  float *to_product = data(product), *to = data(grad_between);
  const Buffer sums(b * 2 * c);
  torch::stable::parallel_for(0, b * c, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t one = i / c * 2 * c + i % c, other = one + c;
      k.gate_backward(pixels, g + i * pixels, from + one * pixels, from + other * pixels, to_product + i * pixels,
                      to + one * pixels, to + other * pixels, sums.get() + one, sums.get() + other);
    }
  });
  return {product, grad_between, add_rows(sums, b, 2 * c, {2 * c}, grad)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> naf_mix_backward(Tensor grad, Tensor between, Tensor kernel, Tensor offset) {
  check(grad);
  const int64_t b = grad.size(0), c = grad.size(1), h = grad.size(2), w = grad.size(3), pixels = h * w;
  Inputs in;
  const float *g = in.image(grad, b, c, h, w), *from = in.image(between, b, 2 * c, h, w);
  const Mix mix{c, h, w, {}, {}, in.weights(kernel, 18 * c), in.weights(offset, 2 * c)};
  const Kernels& k = kernels();
  const Tensor grad_between = empty({b, 2 * c, h, w}, grad);
  float* to = data(grad_between);
  const Buffer kernels_of(b * 18 * c), offsets_of(b * 2 * c), sums_of(b * 2 * c);
  torch::stable::parallel_for(0, b * c, 1, [&](int64_t begin, int64_t end) {
    const Buffer scratch(k.mix_backward_scratch(mix));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / c;
      k.mix_backward(mix, i % c, g + sample * c * pixels, from + sample * 2 * c * pixels, to + sample * 2 * c * pixels,
                     kernels_of.get() + sample * 18 * c, offsets_of.get() + sample * 2 * c,
                     sums_of.get() + sample * 2 * c, scratch.get());
    }
  });
  return {grad_between, add_rows(kernels_of, b, 18 * c, {2 * c, 1, 3, 3}, grad),
          add_rows(offsets_of, b, 2 * c, {2 * c}, grad), add_rows(sums_of, b, 2 * c, {2 * c}, grad)};
}

}  // namespace
}  // namespace naf
}  // namespace vsr

STABLE_TORCH_LIBRARY_IMPL(vsr, CPU, m) {
  m.impl("naf_mix", TORCH_BOX(&vsr::naf::naf_mix));
  m.impl("naf_feed", TORCH_BOX(&vsr::naf::naf_feed));
  m.impl("naf_norm_backward", TORCH_BOX(&vsr::naf::naf_norm_backward));
  m.impl("naf_gate_backward", TORCH_BOX(&vsr::naf::naf_gate_backward));
  m.impl("naf_mix_backward", TORCH_BOX(&vsr::naf::naf_mix_backward));
}
