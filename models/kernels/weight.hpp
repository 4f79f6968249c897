#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>

#include "models/kernels/arithmetic.hpp"

namespace tailor::models::kernels {

/// scale a b, a (T, R) and b (R, F), that joins a product while it is made: a LoRA branch.
struct LowRankTerm {
  at::Tensor a_TR, b_RF;
  double scale;
};

/// A frozen matrix W (O, I) as it is stored, float32 or bfloat16, with the products that forward
/// and backward need. Activations have activation_dtype(arithmetic). Nothing here is
/// differentiated: LinearBase and peft build their autograd functions on it.
class Weight {
 public:
  Weight() = default;
  Weight(at::Tensor stored_OI, Arithmetic arithmetic);

  /// y = x W^T + bias + term, (T, I) -> (T, O). Few tokens take a kernel that reads W once.
  at::Tensor forward(const at::Tensor& x_TI, const std::optional<at::Tensor>& bias_O = {},
                     const LowRankTerm* term = nullptr) const;
  /// dx = dy W + term, (T, O) -> (T, I); adds to `dx_TI` in place where it is defined, else makes
  /// it.
  void backward_(at::Tensor& dx_TI, const at::Tensor& dy_TO,
                 const LowRankTerm* term = nullptr) const;

  /// W in the dtype of the activations, for products made elsewhere; anew at each call unless
  /// keeps_operand().
  at::Tensor operand() const;
  bool keeps_operand() const;
  const at::Tensor& stored() const { return stored_; }
  Arithmetic arithmetic() const { return arithmetic_; }
  std::int64_t in_features() const { return stored_.size(1); }
  std::int64_t out_features() const { return stored_.size(0); }
  bool defined() const { return stored_.defined(); }
  at::Device device() const { return defined() ? stored_.device() : at::Device(at::kCPU); }

 private:
  at::Tensor stored_;
  at::Tensor widened_;           // float32 copy of a bfloat16 weight, where kept
  std::shared_ptr<void> lease_;  // of the copies' budget
  Arithmetic arithmetic_ = Arithmetic::Float32;
};

/// float32 copies of bfloat16 weights are kept while their sum stays below this; beyond it a weight
/// is widened anew at each product. Set before loading; 0 keeps none.
void set_widened_budget_bytes(std::int64_t bytes);
std::int64_t widened_bytes();  // copies alive now

}  // namespace tailor::models::kernels
