// The deformable convolution on CUDA GPUs: torch.ops.vsr.modulated_deform_conv2d and its backward. Checks, memory and
// launches are here; the kernels are in deform_conv_tiles.h. vsr/ops/deform_conv.py is the definition.
//
// Types: float32, bfloat16, float16; sums are float32. offset and mask: any floating type, any strides. With
// VSR_CUDA_TF32=1 in the environment (read at the first call) float32 is multiplied by the tensor cores as tf32, with
// 10 bits of fraction; without it, in full. (PyTorch's own flags cannot be read through the stable ABI.)
//
// The gradient of x is a sum that several blocks add to at once: its last bits differ from run to run, also under
// torch.use_deterministic_algorithms. All other results are the same each time.
//
// A compiler other than nvcc makes this file a CPU kernel of the same ops that imitates the GPU: for tests only.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "deform_conv_tiles.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace vsr::cuda {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

// ---- the device -----------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)

void check(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, "vsr deformable convolution: ", what, ": ", cudaGetErrorString(error));
}

template <typename Kernel>
__global__ void __launch_bounds__(kThreads) run_kernel(const __grid_constant__ typename Kernel::Params params) {
  extern __shared__ __align__(128) char shared[];
  Block<typename Kernel::State> block;
  Kernel::run(block, params, blockIdx.x, shared);
}

// Makes a GPU the current one, and knows its stream and its limits.
class Device {
 public:
  explicit Device(const Tensor& t) : index_(t.get_device_index()), guard_(index_) {
    // The guard speaks to PyTorch's copy of the CUDA runtime, this to the one linked into this library.
    check(cudaSetDevice(index_), "cudaSetDevice");
    check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, index_), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&shared_, cudaDevAttrMaxSharedMemoryPerBlockOptin, index_), "cudaDeviceGetAttribute");
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream) == 0, "vsr: PyTorch gave no CUDA stream");
    stream_ = static_cast<cudaStream_t>(stream);
  }

  int processors() const { return processors_; }

  template <typename Kernel>
  void launch(const typename Kernel::Params& params, int64_t blocks, size_t shared) const {
    if (blocks == 0) return;
    STD_TORCH_CHECK(blocks <= kMaxBlocks, "vsr deformable convolution: the output is too large: ", blocks, " blocks");
    STD_TORCH_CHECK(shared <= size_t(shared_), "vsr deformable convolution: expected ", shared,
                    " bytes of shared memory per block, this GPU has ", shared_);
    if (shared > 48 << 10)
      check(cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
            "asking for shared memory");
    run_kernel<Kernel><<<unsigned(blocks), kThreads, shared, stream_>>>(params);
    check(cudaGetLastError(), "launch");
  }

 private:
  int index_, processors_ = 0, shared_ = 0;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

#else

int number_from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

class Device {
 public:
  explicit Device(const Tensor&) {}
  int processors() const { return number_from_environment("VSR_EMULATED_PROCESSORS", 2); }

  template <typename Kernel>
  void launch(const typename Kernel::Params& params, int64_t blocks, size_t shared) const {
    thread_order = ThreadOrder(number_from_environment("VSR_EMULATED_ORDER", 0));
    std::vector<char> memory(shared + 256);
    char* aligned = memory.data() + (128 - reinterpret_cast<uintptr_t>(memory.data()) % 128);
    for (int64_t index = 0; index < blocks; ++index) {
      std::memset(memory.data(), 0xff, memory.size());  // NaN
      Block<typename Kernel::State> block;
      Kernel::run(block, params, index, aligned);
      for (const char* end = aligned + shared; end < memory.data() + memory.size(); ++end)
        STD_TORCH_CHECK(*end == char(0xff), "a kernel wrote beyond its shared memory");
    }
  }
};

#endif

bool tf32_allowed() {
  static const bool allowed = [] {
    const char* value = std::getenv("VSR_CUDA_TF32");
    return value && std::string(value) == "1";
  }();
  return allowed;
}

// ---- arguments ------------------------------------------------------------------------------------------------------

Scalar scalar_of(const char* name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Scalar::float32;
    case ScalarType::BFloat16:
      return Scalar::bfloat16;
    case ScalarType::Half:
      return Scalar::float16;
    case ScalarType::Double:
      return Scalar::float64;
    default:
      STD_TORCH_CHECK(false, name, ": expected a floating type.");
  }
}

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

void expect(const char* name, const Tensor& t, const Tensor& x, const Ints& shape) {
  const auto sizes = t.sizes();
  bool fits = sizes.size() == shape.size() && t.device() == x.device();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = sizes[i] == shape[i];
  std::string wanted;
  for (const int64_t n : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(n);
  STD_TORCH_CHECK(fits, name, ": expected the shape (", wanted, ") on the device of x.");
}

Geometry geometry_of(const Tensor& x, const Tensor& weight, const Ints& stride, const Ints& padding,
                     const Ints& dilation, int64_t groups, int64_t deform_groups) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4, "x, weight: expected 4 dimensions.");
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "stride, padding, dilation: expected two numbers each.");
  Geometry g{};
  g.batch = x.size(0), g.in_channels = x.size(1), g.height = x.size(2), g.width = x.size(3);
  g.out_channels = weight.size(0), g.kernel_h = weight.size(2), g.kernel_w = weight.size(3);
  g.stride_h = stride[0], g.stride_w = stride[1];
  g.padding_h = padding[0], g.padding_w = padding[1];
  g.dilation_h = dilation[0], g.dilation_w = dilation[1];
  g.groups = groups, g.deform_groups = deform_groups;
  STD_TORCH_CHECK(g.in_channels > 0 && g.height > 0 && g.width > 0 && g.taps() > 0,
                  "x, weight: expected no empty side.");
  STD_TORCH_CHECK(groups > 0 && g.in_channels % groups == 0 && g.out_channels % groups == 0,
                  "groups: expected a divisor of ", g.in_channels, " and ", g.out_channels, " channels, got ", groups,
                  ".");
  STD_TORCH_CHECK(deform_groups > 0 && g.in_channels % deform_groups == 0, "deform_groups: expected a divisor of ",
                  g.in_channels, " channels, got ", deform_groups, ".");
  STD_TORCH_CHECK(stride[0] > 0 && stride[1] > 0 && dilation[0] > 0 && dilation[1] > 0,
                  "stride, dilation: expected numbers from 1 up.");
  g.out_h = (g.height + 2 * g.padding_h - g.dilation_h * (g.kernel_h - 1) - 1) / g.stride_h + 1;
  g.out_w = (g.width + 2 * g.padding_w - g.dilation_w * (g.kernel_w - 1) - 1) / g.stride_w + 1;
  STD_TORCH_CHECK(g.out_h > 0 && g.out_w > 0, "x: expected at least one output pixel.");
  for (const int64_t n : {g.batch, g.in_channels, g.height, g.width, g.out_channels, g.out_h, g.out_w, g.taps(),
                          2 * g.deform_groups * g.taps()})
    STD_TORCH_CHECK(n < int64_t(1) << 31, "vsr deformable convolution: expected no side above 2147483647, got ", n);
  return g;
}

// One call of either op.
struct Call {
  Tensor x, offset;
  std::optional<Tensor> mask;
  Tensor weight;
  Geometry g;

  Call(const Tensor& x_, const Tensor& offset_, const std::optional<Tensor>& mask_, const Tensor& weight_,
       const Geometry& g_)
      : x(x_), offset(offset_), mask(mask_), weight(torch::stable::contiguous(weight_)), g(g_) {
    const int64_t taps = g.deform_groups * g.taps();
    expect("offset", offset, x, {g.batch, 2 * taps, g.out_h, g.out_w});
    if (mask) expect("mask", *mask, x, {g.batch, taps, g.out_h, g.out_w});
    expect("weight", weight, x, {g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w});
    STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight: expected the type of x.");
  }

  Inputs inputs(const Problem& problem, const Tiling& tiling, int offset_groups, const void* image) const {
    Inputs in{};
    in.problem = problem;
    in.tiling = tiling;
    in.offset_groups = offset_groups;
    in.image = image;
    in.offset = offset.const_data_ptr();
    in.offset_type = scalar_of("offset", offset);
    in.offset_strides = strides_of(offset);
    if (mask) {
      in.mask = mask->const_data_ptr();
      in.mask_type = scalar_of("mask", *mask);
      in.mask_strides = strides_of(*mask);
    }
    return in;
  }
};

bool is_channels_last(const Tensor& t) {
  int64_t step = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1 && t.stride(dim) != step) return false;
    step *= t.size(dim);
  }
  return true;
}

// The memory format of what is computed from x: channels_last if x is so, and not contiguous too.
MemoryFormat format_of(const Tensor& x) {
  return is_channels_last(x) && !x.is_contiguous() ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor empty(const Tensor& like, const Ints& sizes, ScalarType type, MemoryFormat format) {
  return torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, like.device(), std::nullopt, format);
}

Output output_of(const Tensor& t) {
  const Strides strides = strides_of(t);
  return {const_cast<void*>(t.const_data_ptr()), strides, t.size(1) > 1 && strides.channel == 1};
}

// x itself if its memory is channels last and aligned, else a copy that is.
template <typename Element>
Tensor channels_last(const Device& device, const Tensor& x, const Geometry& g) {
  if (is_channels_last(x) && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0) return x;
  const Tensor planes = torch::stable::contiguous(x);
  Tensor image = torch::stable::new_empty(x, {g.batch, g.height, g.width, g.in_channels});
  using Kernel = Transpose<Element, Element>;
  const typename Kernel::Params params{g.in_channels, g.height * g.width, planes.const_data_ptr(),
                                       image.mutable_data_ptr()};
  device.launch<Kernel>(params, Kernel::blocks(params, g.batch), Kernel::shared_bytes());
  return image;
}

template <typename Math, bool kInputRows>
Tensor pack_weight(const Device& device, const Tensor& weight, const Problem& problem, const Packing& packing) {
  Tensor packed = torch::stable::new_empty(weight, {packing.size(problem)});
  device.launch<PackWeight<Math, kInputRows>>({problem, packing, weight.const_data_ptr(), packed.mutable_data_ptr()},
                                              divide_up(packing.size(problem), kThreads), 0);
  return packed;
}

// ---- the ops --------------------------------------------------------------------------------------------------------

template <typename Math>
Tensor run_forward(const Device& device, const Call& call, const std::optional<Tensor>& bias) {
  using Element = typename Math::Element;
  constexpr int kBytes = sizeof(Element), kVector = 16 / kBytes;
  const Geometry& g = call.g;
  Tensor out = empty(call.x, {g.batch, g.out_channels, g.out_h, g.out_w}, call.x.scalar_type(), format_of(call.x));
  if (out.numel() == 0) return out;
  const ForwardPlan plan = plan_forward(g, kBytes, device.processors());
  const Tensor image = channels_last<Element>(device, call.x, g);
  const Tensor weight = pack_weight<Math, true>(device, call.weight, plan.problem, plan.packing);
  const Inputs in = call.inputs(plan.problem, plan.tiling, plan.offset_groups, image.const_data_ptr());
  const size_t shared =
      forward_shared<kBytes>(plan.pixels, plan.outputs, plan.problem.width, plan.offset_groups).bytes;

  const auto launch = [&]<typename Kernel>() {
    device.launch<Kernel>({in, plan.packing, int32_t(plan.out_tiles), weight.const_data_ptr(),
                           bias ? bias->const_data_ptr() : nullptr, output_of(out)},
                          plan.blocks, shared);
  };
  if (!plan.vectors) {
    launch.template operator()<Forward<Math, 64, 64, kNarrowChunk, 1>>();
  } else if (plan.outputs == 128) {
    launch.template operator()<Forward<Math, 64, 128, kWideChunk, kVector>>();
  } else if (plan.pixels == 64) {
    launch.template operator()<Forward<Math, 64, 64, kWideChunk, kVector>>();
  } else {
    launch.template operator()<Forward<Math, 32, 64, kWideChunk, kVector>>();
  }
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename Math, int kWidth, int kVector>
void run_gradients(const Device& device, const Call& call, const BackwardPlan& plan, const Tensor& grad,
                   const Inputs& in, Tensor& grad_image, Tensor& grad_offset, Tensor& grad_mask, Tensor& grad_weight) {
  using Element = typename Math::Element;
  constexpr int kBytes = sizeof(Element);
  const Tensor weight = pack_weight<Math, false>(device, call.weight, plan.problem, plan.packing);
  device.launch<DataGradient<Math, kWidth, kVector>>(
      {in, plan.packing, plan.slice, plan.slices, plan.tap_shares, output_of(grad), weight.const_data_ptr(),
       static_cast<float*>(grad_image.mutable_data_ptr()), grad_offset.mutable_data_ptr(),
       call.mask ? grad_mask.mutable_data_ptr() : nullptr},
      plan.data_blocks, data_shared<kBytes>(kWidth, plan.offset_groups, plan.slice).bytes);

  Tensor partial = torch::stable::new_empty(grad_image, {plan.shares * plan.partial.size(plan.problem)});
  device.launch<WeightGradient<Math, kWidth, kVector>>(
      {in, plan.partial, int32_t(plan.out_tiles), int32_t(plan.shares), output_of(grad),
       static_cast<float*>(partial.mutable_data_ptr())},
      plan.weight_blocks, weight_shared<kBytes>(kWidth, plan.offset_groups).bytes);
  device.launch<ReduceWeight<Element>>({plan.problem, plan.partial, int32_t(plan.shares),
                                        static_cast<const float*>(partial.const_data_ptr()),
                                        grad_weight.mutable_data_ptr()},
                                       divide_up(plan.partial.size(plan.problem), kThreads), 0);
}

template <typename Math>
Gradients run_backward(const Device& device, const Call& call, const Tensor& grad) {
  using Element = typename Math::Element;
  constexpr int kVector = 16 / sizeof(Element);
  const Geometry& g = call.g;
  const MemoryFormat format = format_of(call.x);
  const Ints sizes{g.batch, g.in_channels, g.height, g.width};
  Tensor grad_offset = torch::stable::new_empty(call.offset, call.offset.sizes());
  Tensor grad_mask = call.mask ? torch::stable::new_empty(*call.mask, call.mask->sizes())
                               : torch::stable::new_empty(call.x, {int64_t(0)});
  Tensor grad_weight = torch::stable::new_empty(call.weight, call.weight.sizes());
  // Summed in float32, and for the kernels channels last, whatever the result is to be.
  Tensor grad_image = empty(call.x, sizes, ScalarType::Float, MemoryFormat::ChannelsLast);
  torch::stable::zero_(grad_image);
  if (grad.numel() == 0) {
    for (Tensor* t : {&grad_offset, &grad_mask, &grad_weight}) torch::stable::zero_(*t);
  } else {
    const BackwardPlan plan = plan_backward(g, sizeof(Element), device.processors());
    const Tensor image = channels_last<Element>(device, call.x, g);
    const Inputs in = call.inputs(plan.problem, plan.tiling, plan.offset_groups, image.const_data_ptr());
    const auto run = plan.vectors ? run_gradients<Math, kWideChunk, kVector> : run_gradients<Math, kNarrowChunk, 1>;
    run(device, call, plan, grad, in, grad_image, grad_offset, grad_mask, grad_weight);
  }
  if (format == MemoryFormat::ChannelsLast && sizeof(Element) == 4)
    return {grad_image, grad_offset, grad_mask, grad_weight};
  Tensor grad_x = empty(call.x, sizes, call.x.scalar_type(), format);
  if (format == MemoryFormat::ChannelsLast) {
    torch::stable::copy_(grad_x, grad_image);
  } else {
    using Kernel = Transpose<float, Element>;
    const typename Kernel::Params params{g.height * g.width, g.in_channels, grad_image.const_data_ptr(),
                                         grad_x.mutable_data_ptr()};
    device.launch<Kernel>(params, Kernel::blocks(params, g.batch), Kernel::shared_bytes());
  }
  return {grad_x, grad_offset, grad_mask, grad_weight};
}

// Call f<Math>() with the way to multiply that x's type asks for.
template <typename F>
auto dispatch(const Tensor& x, F f) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return tf32_allowed() ? f.template operator()<Tf32>() : f.template operator()<Fp32>();
    case ScalarType::BFloat16:
      return f.template operator()<Bf16>();
    case ScalarType::Half:
      return f.template operator()<Fp16>();
    default:
      STD_TORCH_CHECK(false, "x: expected float32, bfloat16 or float16 on a GPU. Set VSR_OPS=off for any other type.");
  }
}

Tensor forward(const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask, const Tensor& weight,
               const std::optional<Tensor>& bias, const Ints& stride, const Ints& padding, const Ints& dilation,
               int64_t groups, int64_t deform_groups) {
  const Device device(x);
  const Call call(x, offset, mask, weight, geometry_of(x, weight, stride, padding, dilation, groups, deform_groups));
  std::optional<Tensor> line;
  if (bias) {
    expect("bias", *bias, x, {call.g.out_channels});
    STD_TORCH_CHECK(bias->scalar_type() == x.scalar_type(), "bias: expected the type of x.");
    line = torch::stable::contiguous(*bias);
  }
  return dispatch(x, [&]<typename Math>() { return run_forward<Math>(device, call, line); });
}

Gradients backward(const Tensor& grad, const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask,
                   const Tensor& weight, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
                   int64_t deform_groups) {
  const Device device(x);
  const Call call(x, offset, mask, weight, geometry_of(x, weight, stride, padding, dilation, groups, deform_groups));
  expect("grad", grad, x, {call.g.batch, call.g.out_channels, call.g.out_h, call.g.out_w});
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad: expected the type of x.");
  return dispatch(x, [&]<typename Math>() { return run_backward<Math>(device, call, grad); });
}

}  // namespace
}  // namespace vsr::cuda

#if defined(__CUDACC__)
STABLE_TORCH_LIBRARY_IMPL(vsr, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(vsr, CPU, m) {
#endif
  m.impl("modulated_deform_conv2d", TORCH_BOX(&vsr::cuda::forward));
  m.impl("modulated_deform_conv2d_backward", TORCH_BOX(&vsr::cuda::backward));
}
