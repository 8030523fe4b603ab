// The backward pass of NAFNet's block on the CPU: the ops vsr::naf_*_backward that
// vsr/ops/naf_block.py defines, for float32.
//
// Sums over pixels are formed in runs whose borders depend on the image's size alone, and the runs are added up in their
// order: results do not depend on the number of threads.

#include "nafnet_tensors.h"

namespace vsr {
namespace naf {
namespace {

constexpr int64_t kRun = 512, kMostRuns = 8;  // pixels of the shortest run; runs of a sample, each with sums of its own

const BackKernels& kernels() {
#if defined(__x86_64__)
  return choose(back_kernels_portable, back_kernels_avx2, back_kernels_avx512);
#else
  return choose(back_kernels_portable, back_kernels_portable, back_kernels_portable);
#endif
}

Tensor alike(const Tensor& t) { return empty({t.size(0), t.size(1), t.size(2), t.size(3)}, t); }

// The runs of all samples, and the sums of each.
struct Runs {
  Runs(int64_t batch, int64_t pixels, int64_t number)
      : of_sample(std::clamp<int64_t>(pixels / kRun, 1, kMostRuns)), count(batch * of_sample), number(number),
        sums(count * number) {}

  // Calls work(sample, first pixel, last pixel, sums), many at once.
  template <typename Work>
  void each(int64_t pixels, int64_t scratch, const Work& work) const {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      const Buffer memory(scratch);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t run = i % of_sample;
        work(i / of_sample, run * pixels / of_sample, (run + 1) * pixels / of_sample, sums.get() + i * number,
             memory.get());
      }
    });
  }

  // Adds up the numbers from `first` on, over runs [begin, end), into `to`.
  void add(int64_t first, int64_t some, int64_t begin, int64_t end, float* to) const {
    std::fill_n(to, some, 0.0f);
    for (int64_t i = begin; i < end; ++i) {
      const float* from = sums.get() + i * number + first;
      for (int64_t j = 0; j < some; ++j) to[j] += from[j];
    }
  }

  Tensor total(int64_t first, std::vector<int64_t> sizes, const Tensor& like) const {
    const Tensor to = empty(sizes, like);
    add(first, to.numel(), 0, count, data(to));
    return to;
  }

  int64_t of_sample, count, number;
  Buffer sums;
};

// (rows, columns), each row times its factor -> (columns, rows).
void turn(int64_t rows, int64_t columns, const float* from, const float* factors, float* to) {
  constexpr int64_t kBlock = 16;
  for (int64_t first = 0; first < rows; first += kBlock) {
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t row = first; row < std::min(rows, first + kBlock); ++row)
        to[column * rows + row] = from[row * columns + column] * (factors ? factors[row] : 1.0f);
  }
}

// A matrix m and then factors f: y = f * (m x + bias). From the outer products (rows, columns) of y's gradient and x, and
// the sums of y's gradient, makes the gradients of m (in place), bias (in place) and f.
Tensor share_with_factors(const Tensor& outer, const Tensor& sums, const float* matrix, const float* bias,
                          const float* factors, const Tensor& like) {
  const int64_t rows = sums.numel(), columns = outer.numel() / rows;
  const Tensor by_factor = empty({1, rows, 1, 1}, like);
  float *products = data(outer), *by_bias = data(sums), *to = data(by_factor);
  for (int64_t row = 0; row < rows; ++row) {
    float sum = by_bias[row] * bias[row];
    for (int64_t i = row * columns; i < (row + 1) * columns; ++i) {
      sum += products[i] * matrix[i];
      products[i] *= factors[row];
    }
    to[row] = sum;
    by_bias[row] *= factors[row];
  }
  return by_factor;
}

using Twelve = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Twelve naf_feed_backward(Tensor grad, Tensor mixed, std::optional<Tensor> scale, Tensor narrow_weight, Tensor narrow_bias,
                      Tensor beta, Tensor norm_weight, Tensor norm_bias, double eps, Tensor wide_weight,
                      Tensor last_weight, Tensor last_bias, Tensor gamma, Tensor total, Tensor between) {
  check(grad);
  const int64_t b = grad.size(0), c = grad.size(1), h = grad.size(2), w = grad.size(3);
  const int64_t pixels = h * w, size = c * pixels;
  Inputs in;
  const FeedImages all{in.image(grad, b, c, h, w), in.image(mixed, b, c, h, w),
                       scale ? in.weights(*scale, b * c) : nullptr,
                       in.image(total, b, c, h, w), in.image(between, b, 2 * c, h, w), nullptr, nullptr};
  const float *narrow = in.weights(narrow_weight, c * c), *wide = in.weights(wide_weight, 2 * c * c);
  const float *last = in.weights(last_weight, c * c), *betas = in.weights(beta, c), *gammas = in.weights(gamma, c);
  const Buffer turned(4 * c * c);
  turn(c, c, last, gammas, turned.get());
  turn(2 * c, c, wide, nullptr, turned.get() + c * c);
  turn(c, c, narrow, betas, turned.get() + 3 * c * c);
  const FeedBack feed{c, pixels, turned.get(), turned.get() + c * c, turned.get() + 3 * c * c,
                      {in.weights(norm_weight, c), in.weights(norm_bias, c), float(eps)}};
  const BackKernels& k = kernels();
  const Tensor grad_total = alike(grad), grad_mixed = alike(grad);
  const Tensor grad_scale = scale ? empty({b, c, 1, 1}, grad) : empty({0}, grad);
  float *to_total = data(grad_total), *to_mixed = data(grad_mixed);
  const Runs runs(b, pixels, 4 * c * c + 7 * c);
  runs.each(pixels, k.feed_scratch(c), [&](int64_t sample, int64_t first, int64_t last, float* sums, float* scratch) {
    const int64_t at = sample * size;
    const FeedImages images{all.grad + at, all.mixed + at, scale ? all.scale + sample * c : nullptr, all.total + at,
                            all.between + 2 * at, to_total + at, to_mixed + at};
    k.feed(feed, images, first, last, sums, scratch);
  });
  const int64_t vectors = 4 * c * c;
  if (scale)
    for (int64_t i = 0; i < b; ++i)
      runs.add(vectors + 6 * c, c, i * runs.of_sample, (i + 1) * runs.of_sample, data(grad_scale) + i * c);
  const Tensor grad_last = runs.total(0, {c, c, 1, 1}, grad), grad_wide = runs.total(c * c, {2 * c, c, 1, 1}, grad);
  const Tensor grad_narrow = runs.total(3 * c * c, {c, c, 1, 1}, grad);
  const Tensor by_last = runs.total(vectors, {c}, grad), by_narrow = runs.total(vectors + c, {c}, grad);
  const Tensor grad_gamma = share_with_factors(grad_last, by_last, last, in.weights(last_bias, c), gammas, grad);
  const Tensor grad_beta = share_with_factors(grad_narrow, by_narrow, narrow, in.weights(narrow_bias, c), betas, grad);
  const Tensor grad_norm = runs.total(vectors + 4 * c, {2, c}, grad);
  return {grad_total, grad_mixed, grad_scale, grad_narrow, by_narrow, grad_beta, grad_norm, grad_wide,
          runs.total(vectors + 2 * c, {2 * c}, grad), grad_last, by_last, grad_gamma};
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

using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Six naf_mix_backward(Tensor grad, std::optional<Tensor> grad_means, Tensor x, Tensor between, Tensor norm_weight,
                     Tensor norm_bias, double eps, Tensor weight, Tensor kernel, Tensor offset) {
  check(grad);
  const int64_t b = grad.size(0), c = grad.size(1), h = grad.size(2), w = grad.size(3);
  const int64_t pixels = h * w, size = c * pixels;
  Inputs in;
  const float *g = in.image(grad, b, c, h, w), *image = in.image(x, b, c, h, w);
  const float* from = in.image(between, b, 2 * c, h, w);
  const float* by_means = grad_means ? in.weights(*grad_means, b * c) : nullptr;
  const Mix mix{c, h, w, {}, {}, in.weights(kernel, 18 * c), in.weights(offset, 2 * c)};
  const BackKernels& k = kernels();
  const Buffer grad_between(2 * b * size), kernels_of(b * 18 * c), offsets_of(b * 2 * c), sums_of(b * 2 * c);
  torch::stable::parallel_for(0, b * c, 1, [&](int64_t begin, int64_t end) {
    const Buffer scratch(k.depthwise_scratch(mix));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / c, at = sample * size;
      k.depthwise(mix, i % c, g + at, by_means ? by_means[i] / float(pixels) : 0.0f, from + 2 * at,
                  grad_between.get() + 2 * at, kernels_of.get() + sample * 18 * c, offsets_of.get() + sample * 2 * c,
                  sums_of.get() + sample * 2 * c, scratch.get());
    }
  });
  const Buffer turned(2 * c * c);
  turn(2 * c, c, in.weights(weight, 2 * c * c), nullptr, turned.get());
  const WideBack wide{c, pixels, turned.get(), {in.weights(norm_weight, c), in.weights(norm_bias, c), float(eps)}};
  const Tensor grad_x = alike(grad);
  float* to = data(grad_x);
  const Runs runs(b, pixels, 2 * c * c + 2 * c);
  runs.each(pixels, k.wide_scratch(c), [&](int64_t sample, int64_t first, int64_t last, float* sums, float* scratch) {
    const int64_t at = sample * size;
    k.wide(wide, image + at, grad_between.get() + 2 * at, to + at, first, last, sums, scratch);
  });
  return {grad_x, runs.total(2 * c * c, {2, c}, grad), runs.total(0, {2 * c, c, 1, 1}, grad),
          add_rows(sums_of, b, 2 * c, {2 * c}, grad), add_rows(kernels_of, b, 18 * c, {2 * c, 1, 3, 3}, grad),
          add_rows(offsets_of, b, 2 * c, {2 * c}, grad)};
}

std::tuple<Tensor, Tensor> naf_up_backward(Tensor grad, Tensor x, Tensor weight) {
  check(x);
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), outputs = weight.numel() / (4 * c);
  Inputs in;
  const float *image = in.image(x, b, c, h, w), *g = in.image(grad, b, outputs, 2 * h, 2 * w);
  const Buffer ordered(4 * outputs * c), turned(4 * outputs * c);
  order_rows(outputs, c, in.weights(weight, 4 * outputs * c), ordered.get());
  turn(4 * outputs, c, ordered.get(), nullptr, turned.get());
  const Up up{c, outputs, h, w, turned.get()};
  const BackKernels& k = kernels();
  const Tensor grad_x = alike(x);
  float* to = data(grad_x);
  const Runs runs(b, h * w, 4 * outputs * c);
  runs.each(h * w, k.up_scratch(up), [&](int64_t sample, int64_t first, int64_t last, float* sums, float* scratch) {
    const int64_t at = sample * c * h * w;
    k.up(up, image + at, g + sample * outputs * 4 * h * w, to + at, first, last, sums, scratch);
  });
  const Tensor total = runs.total(0, {4 * outputs, c}, x), grad_weight = empty({4 * outputs, c, 1, 1}, x);
  order_rows(outputs, c, data(total), data(grad_weight), true);
  return {grad_x, grad_weight};
}

}  // namespace
}  // namespace naf
}  // namespace vsr

STABLE_TORCH_LIBRARY_IMPL(vsr, CPU, m) {
  m.impl("naf_feed_backward", TORCH_BOX(&vsr::naf::naf_feed_backward));
  m.impl("naf_mix_backward", TORCH_BOX(&vsr::naf::naf_mix_backward));
  m.impl("naf_up_backward", TORCH_BOX(&vsr::naf::naf_up_backward));
}
