// The forward pass of NAFNet's block on the CPU: the ops vsr::naf_* that vsr/ops/naf_block.py defines,
// for float32.
//
// A tile of pixels goes through norm, 1x1 convolutions and gates while it stays in the cache. Threads share the pixels
// out; each pixel is computed alike wherever the shares begin, so that results do not depend on the number of threads.

#include "nafnet_tensors.h"

namespace vsr {
namespace naf {
namespace {

const Kernels& kernels() {
#if defined(__x86_64__)
  return choose(kernels_portable, kernels_avx2, kernels_avx512);
#else
  return choose(kernels_portable, kernels_portable, kernels_portable);
#endif
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

std::tuple<Tensor, Tensor, Tensor> naf_mix(Tensor x, Tensor norm_weight, Tensor norm_bias, double eps, Tensor weight,
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
  const Buffer sums(b * c * h);
  share_out(b, h, 1 + 512 / w, [&](int64_t sample, int64_t first, int64_t last) {
    const Buffer scratch(k.mix_scratch(mix));
    k.mix(mix, from + sample * c * h * w, to + sample * c * h * w, keep ? kept + 2 * sample * c * h * w : nullptr,
          sums.get() + sample * c * h, first, last, scratch.get());
  });
  const Tensor means = empty({b, c, 1, 1}, x);
  for (int64_t i = 0; i < b * c; ++i)
    data(means)[i] = std::accumulate(sums.get() + i * h, sums.get() + (i + 1) * h, 0.0f) / float(h * w);
  return {out, means, between};
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

Tensor naf_up(Tensor x, Tensor weight, Tensor skip) {
  check(x);
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), outputs = skip.dim() == 4 ? skip.size(1) : 0;
  Inputs in;
  const float *from = in.image(x, b, c, h, w), *more = in.image(skip, b, outputs, 2 * h, 2 * w);
  const Buffer ordered(4 * outputs * c);
  order_rows(outputs, c, in.weights(weight, 4 * outputs * c), ordered.get());
  const Up up{c, outputs, h, w, ordered.get()};
  const Kernels& k = kernels();
  const Tensor out = empty({b, outputs, 2 * h, 2 * w}, x);
  float* to = data(out);
  share_out(b, h * w, k.feed_pixels, [&](int64_t sample, int64_t first, int64_t last) {
    const Buffer scratch(k.up_scratch(up));
    const int64_t at = sample * outputs * 4 * h * w;
    k.up(up, from + sample * c * h * w, more + at, to + at, first, last, scratch.get());
  });
  return out;
}

}  // namespace
}  // namespace naf
}  // namespace vsr

STABLE_TORCH_LIBRARY_IMPL(vsr, CPU, m) {
  m.impl("naf_mix", TORCH_BOX(&vsr::naf::naf_mix));
  m.impl("naf_feed", TORCH_BOX(&vsr::naf::naf_feed));
  m.impl("naf_up", TORCH_BOX(&vsr::naf::naf_up));
}
