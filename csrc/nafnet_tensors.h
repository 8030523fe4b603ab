// What nafnet_cpu.cpp and nafnet_backward_cpu.cpp share: tensors, scratch memory, the choice of the instruction set.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <numeric>
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

// The table for this CPU, of those that are compiled for each instruction set.
template <typename Table>
const Table& choose(const Table& (*portable)(), const Table& (*avx2)(), const Table& (*avx512)()) {
  static const std::string isa = [] {
    const char* name = vsr_cpu_isa();
    STD_TORCH_CHECK(name != nullptr, "VSR_CPU_ISA: expected portable, avx2 or avx512, and no more than this CPU offers.");
    return std::string(name);
  }();
  return isa == "avx512" ? avx512() : isa == "avx2" ? avx2() : portable();
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

// Rows (outputs, 2, 2) of a matrix with so many columns to those of Up, or back.
inline void order_rows(int64_t outputs, int64_t columns, const float* from, float* to, bool back = false) {
  for (int64_t k = 0; k < 2 * outputs; ++k) {
    for (int64_t right = 0; right < 2; ++right) {
      const int64_t given = 2 * k + right, ordered = right * 2 * outputs + k;
      std::copy_n(from + (back ? ordered : given) * columns, columns, to + (back ? given : ordered) * columns);
    }
  }
}

void check(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(0) > 0 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
                  "naf: expected an image (b, c, h, w) with channels and pixels.");
}

}  // namespace
}  // namespace naf
}  // namespace vsr
