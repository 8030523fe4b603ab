// Modulated deformable convolution on the CPU: the ops vsr::modulated_deform_conv2d and its backward, defined in
// vsr/ops/deform_conv.py, for float32, float64, bfloat16 and (through float32) float16.
//
// Forward: the input is packed into planes of channels that share their offsets; a tile of output pixels is sampled into
// columns that stay in the cache, and multiplied with the weights at once. Backward: a task is one plane, so that no two
// threads add to one place: no atomics, and the same result with any number of threads.

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
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>

#include "deform_conv_cpu.h"

namespace vsr {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostScratch = int64_t(1) << 25;  // bytes of planes that exist at a time, if a sample needs no more

// ---- the instruction set ----

enum class Isa { portable, avx2, avx512 };

const char* name_of(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable"; }

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa chosen_isa() {
  static const Isa best = best_isa();
  const char* wish = std::getenv("VSR_CPU_ISA");
  if (wish == nullptr || *wish == '\0') return best;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (std::string(wish) == name_of(isa)) {
      STD_TORCH_CHECK(isa <= best, "VSR_CPU_ISA: expected at most ", name_of(best), ", which this CPU offers, got ",
                      wish, ". Unset it.");
      return isa;
    }
  }
  STD_TORCH_CHECK(false, "VSR_CPU_ISA: expected portable, avx2 or avx512, got ", wish, ".");
}

template <typename T>
const Kernels<T>& kernels() {
  [[maybe_unused]] const Isa isa = chosen_isa();
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kernels_avx512<T>();
  if (isa == Isa::avx2) return kernels_avx2<T>();
#endif
  return kernels_portable<T>();
}

// ---- memory and threads ----

template <typename T>
class Buffer {  // aligned to a cache line, not initialised
 public:
  explicit Buffer(int64_t elements) : data_(static_cast<T*>(std::aligned_alloc(64, bytes(elements)))) {
    STD_TORCH_CHECK(data_ != nullptr, "modulated_deform_conv2d: no memory for ", bytes(elements), " bytes.");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* get() const { return data_; }

 private:
  static size_t bytes(int64_t elements) { return round_up(elements * int64_t(sizeof(T)) + 64, 64); }
  T* data_;
};

// ---- tensors ----

ScalarType kept_type(const Tensor& t) {  // the type that the kernels read it in
  return t.scalar_type() == ScalarType::Half ? ScalarType::Float : t.scalar_type();
}

Tensor readable(const Tensor& t) {
  return t.scalar_type() == ScalarType::Half ? torch::stable::to(t, ScalarType::Float) : t;
}

// Like `readable`, with rows that follow each other without a gap.
Tensor flat(const Tensor& t) {
  const Tensor r = readable(t);
  const bool gapless = r.size(2) == 1 || r.size(3) == 1 || r.stride(2) == r.size(3) * r.stride(3);
  return gapless ? r : torch::stable::contiguous(r);
}

Type type_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::BFloat16: return Type::bf16;
    default: STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16.");
  }
}

View view(const Tensor& t, const char* name) {
  View v{const_cast<void*>(t.const_data_ptr()), type_of(t, name), {}};
  if (t.dim() == 4) v.strides = {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
  // The stride of a side of 1 means nothing, even in a contiguous tensor; but pixels are counted through both sides.
  if (t.dim() == 4 && t.size(3) == 1) {
    v.strides.column = v.strides.row;
  } else if (t.dim() == 4 && t.size(2) == 1) {
    v.strides.row = t.size(3) * t.stride(3);
  }
  return v;
}

// Whether an output shall be channels_last because x is, and is not contiguous too.
bool follows_channels_last(const Tensor& x) {
  int64_t step = 1;
  for (int64_t dim : {1, 3, 2, 0}) {
    if (x.size(dim) != 1 && x.stride(dim) != step) return false;
    step *= x.size(dim);
  }
  return !x.is_contiguous();
}

// Element `at` of a tensor of any type.
template <typename T>
void set(const View& to, int64_t at, T value) {
  switch (to.type) {
    case Type::f32: static_cast<float*>(to.data)[at] = float(value); break;
    case Type::f64: static_cast<double*>(to.data)[at] = double(value); break;
    case Type::bf16: static_cast<c10::BFloat16*>(to.data)[at] = c10::BFloat16(float(value)); break;
  }
}

Tensor empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType type, bool channels_last = false) {
  return torch::stable::empty(IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), type, std::nullopt, like.device(),
                              std::nullopt,
                              channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                            : torch::headeronly::MemoryFormat::Contiguous);
}

Tensor as_type(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}

// ---- shapes ----

struct Settings {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups, deform_groups;
};

void check_size(const Tensor& t, const char* name, std::vector<int64_t> sizes) {
  bool equal = t.dim() == int64_t(sizes.size());
  for (size_t i = 0; equal && i < sizes.size(); ++i) equal = t.size(i) == sizes[i];
  STD_TORCH_CHECK(equal, "modulated_deform_conv2d: ", name, " does not have the shape that x, weight and the settings ask for.");
}

Geometry geometry_of(const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask, const Tensor& weight,
                     const Settings& s) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4 && s.stride.size() == 2 && s.padding.size() == 2 &&
                      s.dilation.size() == 2 && s.groups > 0 && s.deform_groups > 0,
                  "modulated_deform_conv2d: expected x and weight of 4 dimensions, pairs of numbers and groups from 1 up.");
  Geometry g{x.size(0), x.size(1), x.size(2), x.size(3), weight.size(0), weight.size(2), weight.size(3), 0, 0,
             s.stride[0], s.stride[1], s.padding[0], s.padding[1], s.dilation[0], s.dilation[1], s.groups,
             s.deform_groups};
  STD_TORCH_CHECK(g.stride_h > 0 && g.stride_w > 0 && g.dilation_h > 0 && g.dilation_w > 0 && g.padding_h >= 0 &&
                      g.padding_w >= 0 && g.in_channels % g.groups == 0 && g.out_channels % g.groups == 0 &&
                      g.in_channels % g.deform_groups == 0,
                  "modulated_deform_conv2d: expected strides and dilations from 1 up and groups that divide the channels.");
  STD_TORCH_CHECK(g.in_channels > 0 && g.out_channels > 0 && g.height > 0 && g.width > 0 && g.taps() > 0,
                  "modulated_deform_conv2d: expected x and weight without an empty side, other than the batch.");
  g.out_h = (g.height + 2 * g.padding_h - g.dilation_h * (g.kernel_h - 1) - 1) / g.stride_h + 1;
  g.out_w = (g.width + 2 * g.padding_w - g.dilation_w * (g.kernel_w - 1) - 1) / g.stride_w + 1;
  STD_TORCH_CHECK(g.out_h > 0 && g.out_w > 0 && g.height < INT32_MAX - 4 && g.width < INT32_MAX - 4,
                  "modulated_deform_conv2d: expected at least one output pixel and sides below 2^31.");
  const int64_t places = g.deform_groups * g.taps();
  check_size(weight, "weight", {g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w});
  check_size(offset, "offset", {g.batch, 2 * places, g.out_h, g.out_w});
  if (mask) check_size(*mask, "mask", {g.batch, places, g.out_h, g.out_w});
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "modulated_deform_conv2d: expected x and weight of one type.");
  return g;
}

template <typename T>
std::vector<Segment> segments_of(const Geometry& g, const Kernels<T>& k) {
  const int64_t per_group = g.in_channels / g.groups, per_deform = g.in_channels / g.deform_groups;
  std::vector<Segment> segments;
  int64_t plane = 0, column = 0;
  for (int64_t first = 0; first < g.in_channels;) {
    const int64_t group = first / per_group, deform_group = first / per_deform;
    int64_t last = std::min((group + 1) * per_group, (deform_group + 1) * per_deform);
    last = std::min(last, first + kMostChannels);
    if (first % per_group == 0) column = 0;
    const bool first_slot = segments.empty() || segments.back().deform_group != deform_group;
    const int64_t width = round_up(last - first, k.shortest);
    segments.push_back({first, last - first, width, deform_group, group, plane, column,
                        first_slot ? 0 : segments.back().slot + 1});
    plane += width;
    column += width;
    first = last;
  }
  return segments;
}

template <typename T>
struct Plan {
  const Kernels<T>& k;
  Shape shape;
  std::vector<Segment> segments;
  int64_t widths = 0;          // of all segments
  int64_t widest = 0;          // of a segment
  int64_t most_columns = 0;    // of a segment, in whole strips
  int64_t strips;              // of a group's output channels

  Plan(const Geometry& g) : k(kernels<T>()), shape{g, 0, g.out_channels / g.groups, 0}, segments(segments_of(g, k)) {
    for (const Segment& s : segments) {
      widths += s.width;
      widest = std::max(widest, s.width);
      shape.columns = std::max(shape.columns, (s.column + s.width) * g.taps());
      most_columns = std::max(most_columns, round_up(s.width * g.taps(), k.panel));
    }
    shape.out_width = round_up(shape.outputs, k.longest);
    strips = round_up(shape.outputs, k.panel) / k.panel;
  }
};

// ---- forward ----

template <typename T>
void run_forward(const Geometry& g, const View& x, const View& offset, const View* mask, const View& weight,
                 const View* bias, const View& out) {
  const Plan<T> plan(g);
  const Kernels<T>& k = plan.k;
  const Shape& shape = plan.shape;
  const int64_t number = plan.segments.size();
  const int64_t strip = shape.columns * k.panel;
  const Buffer<T> packed(g.groups * plan.strips * strip);
  torch::stable::parallel_for(0, g.groups * plan.strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      k.pack_weight(shape, plan.segments.data(), number, weight, i / plan.strips, i % plan.strips,
                    packed.get() + i * strip);
  });
  // As many samples at a time as have their planes within kMostScratch.
  const int64_t sample_size = plan.widths * shape.plane_size();
  const int64_t some = std::max<int64_t>(1, std::min(g.batch, kMostScratch / (sample_size * int64_t(sizeof(T)))));
  const Buffer<T> planes(some * sample_size);
  // Tiles whose columns take about a fifth of a second-level cache.
  int64_t pixels = std::max<int64_t>(12, (100 << 10) / (shape.columns * int64_t(sizeof(T))) / 12 * 12);
  pixels = std::min(pixels, kMostPixels);
  const int64_t tiles = (g.pixels() + pixels - 1) / pixels;
  for (int64_t first = 0; first < g.batch; first += some) {
    const int64_t samples = std::min(some, g.batch - first);
    torch::stable::parallel_for(0, samples * number, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Segment& segment = plan.segments[i % number];
        k.pack_plane(shape, segment, x, first + i / number,
                     planes.get() + i / number * sample_size + segment.plane * shape.plane_size());
      }
    });
    torch::stable::parallel_for(0, samples * tiles, 1, [&](int64_t begin, int64_t end) {
      const Buffer<T> scratch(kMostPixels * (shape.columns + shape.out_width));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t pixel = i % tiles * pixels;
        k.forward(shape, plan.segments.data(), number, planes.get() + i / tiles * sample_size, offset, mask,
                  packed.get(), bias, out, first + i / tiles, pixel, std::min(pixel + pixels, g.pixels()),
                  scratch.get());
      }
    });
  }
}

Tensor modulated_deform_conv2d(Tensor x, Tensor offset, std::optional<Tensor> mask, Tensor weight,
                               std::optional<Tensor> bias, std::vector<int64_t> stride, std::vector<int64_t> padding,
                               std::vector<int64_t> dilation, int64_t groups, int64_t deform_groups) {
  const Geometry g = geometry_of(x, offset, mask, weight, {stride, padding, dilation, groups, deform_groups});
  if (bias) check_size(*bias, "bias", {g.out_channels});
  const ScalarType type = x.scalar_type();
  const Tensor out = empty(x, {g.batch, g.out_channels, g.out_h, g.out_w}, kept_type(x), follows_channels_last(x));
  if (out.numel() == 0) return as_type(out, type);
  const Tensor x_kept = readable(x), offset_kept = flat(offset), weight_kept = readable(weight);
  const std::optional<Tensor> mask_kept = mask ? std::optional(flat(*mask)) : std::nullopt;
  const std::optional<Tensor> bias_kept = bias ? std::optional(torch::stable::contiguous(readable(*bias))) : std::nullopt;
  const View mask_view = mask ? view(*mask_kept, "mask") : View{}, bias_view = bias ? view(*bias_kept, "bias") : View{};
  const auto run = type == ScalarType::Double ? run_forward<double> : run_forward<float>;
  run(g, view(x_kept, "x"), view(offset_kept, "offset"), mask ? &mask_view : nullptr, view(weight_kept, "weight"),
      bias ? &bias_view : nullptr, view(out, "out"));
  return as_type(out, type);
}

// ---- backward ----

struct Gradients {
  View x, offset, mask, weight;
  bool has_mask;
};

// Adds up what the segments of a deformable group found for its offsets or mask: (slots, elements) -> elements.
template <typename T>
void add_slots(const T* partial, int64_t slots, int64_t elements, const View& to) {
  torch::stable::parallel_for(0, elements, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T sum = 0;
      for (int64_t slot = 0; slot < slots; ++slot) sum += partial[slot * elements + i];
      set(to, i, sum);
    }
  });
}

template <typename T>
void run_backward(const Geometry& g, const View& grad, const View& x, const View& offset, const View* mask,
                  const View& weight, const Gradients& grads) {
  const Plan<T> plan(g);
  const Kernels<T>& k = plan.k;
  const Shape& shape = plan.shape;
  const int64_t number = plan.segments.size(), pixels = g.pixels(), places = g.deform_groups * g.taps();

  // The output's gradient, pixel by pixel.
  const int64_t grad_size = pixels * shape.out_width;  // of one group of a sample
  const Buffer<T> packed_grad(g.batch * g.groups * grad_size);
  const int64_t strips = (pixels + kMostPixels - 1) / kMostPixels;
  torch::stable::parallel_for(0, g.batch * g.groups * strips, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % strips * kMostPixels, sample_group = i / strips;
      k.pack_grad(shape, sample_group % g.groups, grad, sample_group / g.groups, first,
                  std::min(first + kMostPixels, pixels), packed_grad.get() + sample_group * grad_size);
    }
  });

  // Where a deformable group has several segments, each writes its share of the offsets' gradients beside the others'.
  int64_t slots = 1;
  for (const Segment& segment : plan.segments) slots = std::max(slots, segment.slot + 1);
  const int64_t offsets = g.batch * 2 * places * pixels, masks = g.batch * places * pixels;
  const Buffer<T> partial_offset(slots > 1 ? slots * offsets : 0);
  const Buffer<T> partial_mask(slots > 1 && grads.has_mask ? slots * masks : 0);
  const Type type = sizeof(T) == 8 ? Type::f64 : Type::f32;
  // Not every group need have the most segments: what nobody writes stays zero.
  if (slots > 1) std::memset(partial_offset.get(), 0, slots * offsets * sizeof(T));
  if (slots > 1 && grads.has_mask) std::memset(partial_mask.get(), 0, slots * masks * sizeof(T));
  const auto share = [&](T* partial, int64_t channels) {
    return View{partial, type, {channels * pixels, pixels, g.out_w, 1}};
  };

  // Tasks: a segment and a run of samples. Their number does not depend on that of the threads, nor then does the sum
  // of the weights' gradients.
  const int64_t runs = std::min(g.batch, std::max<int64_t>(1, 64 / number));
  const int64_t rows = g.taps() * plan.widest, task_weight = rows * shape.out_width;
  const Buffer<T> grad_weight(runs * number * task_weight);
  torch::stable::parallel_for(0, runs * number, 1, [&](int64_t begin, int64_t end) {
    const int64_t plane_size = plan.widest * shape.plane_size();
    const Buffer<T> plane(plane_size), grad_plane(plane_size), transposed(plan.most_columns * shape.outputs);
    const Buffer<T> scratch(2 * kMostPixels * plan.most_columns);
    for (int64_t task = begin; task < end; ++task) {
      const Segment& s = plan.segments[task % number];
      const int64_t run = task / number;
      T* own_weight = grad_weight.get() + task * task_weight;
      std::memset(own_weight, 0, task_weight * sizeof(T));
      k.pack_transposed(shape, s, weight, transposed.get());
      const View to_offset = slots > 1 ? share(partial_offset.get() + s.slot * offsets, 2 * places) : grads.offset;
      const View to_mask = slots > 1 ? share(partial_mask.get() + s.slot * masks, places) : grads.mask;
      for (int64_t b = run * g.batch / runs; b < (run + 1) * g.batch / runs; ++b) {
        k.pack_plane(shape, s, x, b, plane.get());
        std::memset(grad_plane.get(), 0, s.width * shape.plane_size() * sizeof(T));
        k.backward(shape, s, plane.get(), packed_grad.get() + (b * g.groups + s.group) * grad_size, offset, mask,
                   transposed.get(), grad_plane.get(), to_offset, grads.has_mask ? &to_mask : nullptr, own_weight, b,
                   scratch.get());
        k.unpack_plane(shape, s, grad_plane.get(), b, grads.x);
      }
    }
  });
  if (slots > 1) add_slots(partial_offset.get(), slots, offsets, grads.offset);
  if (slots > 1 && grads.has_mask) add_slots(partial_mask.get(), slots, masks, grads.mask);

  torch::stable::parallel_for(0, number, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Segment& s = plan.segments[i];
      const int64_t channel = s.first - s.group * (g.in_channels / g.groups);
      for (int64_t o = 0; o < shape.outputs; ++o)
        for (int64_t c = 0; c < s.channels; ++c)
          for (int64_t tap = 0; tap < g.taps(); ++tap) {
            T sum = 0;
            for (int64_t run = 0; run < runs; ++run)
              sum += grad_weight.get()[(run * number + i) * task_weight + (tap * s.width + c) * shape.out_width + o];
            const int64_t at = grads.weight.strides.at(s.group * shape.outputs + o, channel + c, tap / g.kernel_w,
                                                       tap % g.kernel_w);
            set(grads.weight, at, sum);
          }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> modulated_deform_conv2d_backward(
    Tensor grad, Tensor x, Tensor offset, std::optional<Tensor> mask, Tensor weight, std::vector<int64_t> stride,
    std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups, int64_t deform_groups) {
  const Geometry g = geometry_of(x, offset, mask, weight, {stride, padding, dilation, groups, deform_groups});
  check_size(grad, "grad", {g.batch, g.out_channels, g.out_h, g.out_w});
  const int64_t places = g.deform_groups * g.taps();
  const Tensor grad_x = empty(x, {g.batch, g.in_channels, g.height, g.width}, kept_type(x), follows_channels_last(x));
  const Tensor grad_offset = empty(x, {g.batch, 2 * places, g.out_h, g.out_w}, kept_type(offset));
  const Tensor grad_mask = mask ? empty(x, {g.batch, places, g.out_h, g.out_w}, kept_type(*mask)) : empty(x, {0}, x.scalar_type());
  Tensor grad_weight = empty(x, {g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w}, kept_type(weight));
  if (g.batch == 0) {
    torch::stable::zero_(grad_weight);
  } else {
    const Tensor grad_kept = flat(grad), x_kept = readable(x), offset_kept = flat(offset), weight_kept = readable(weight);
    const std::optional<Tensor> mask_kept = mask ? std::optional(flat(*mask)) : std::nullopt;
    const View mask_view = mask ? view(*mask_kept, "mask") : View{};
    const Gradients grads{view(grad_x, "grad_x"), view(grad_offset, "grad_offset"),
                          mask ? view(grad_mask, "grad_mask") : View{}, view(grad_weight, "grad_weight"), mask.has_value()};
    const auto run = x.scalar_type() == ScalarType::Double ? run_backward<double> : run_backward<float>;
    run(g, view(grad_kept, "grad"), view(x_kept, "x"), view(offset_kept, "offset"), mask ? &mask_view : nullptr,
        view(weight_kept, "weight"), grads);
  }
  return {as_type(grad_x, x.scalar_type()), as_type(grad_offset, offset.scalar_type()),
          mask ? as_type(grad_mask, mask->scalar_type()) : grad_mask, as_type(grad_weight, weight.scalar_type())};
}

}  // namespace
}  // namespace vsr

// The instruction set that the kernels use, for reports; null if VSR_CPU_ISA asks for what there is not.
extern "C" __attribute__((visibility("default"))) const char* vsr_cpu_isa() {
  try {
    return vsr::name_of(vsr::chosen_isa());
  } catch (const std::exception&) {
    return nullptr;
  }
}

STABLE_TORCH_LIBRARY_IMPL(vsr, CPU, m) {
  m.impl("modulated_deform_conv2d", TORCH_BOX(&vsr::modulated_deform_conv2d));
  m.impl("modulated_deform_conv2d_backward", TORCH_BOX(&vsr::modulated_deform_conv2d_backward));
}
