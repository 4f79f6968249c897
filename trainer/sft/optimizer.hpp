#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/sft/flat_parameters.hpp"

namespace tailor::trainer {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.0;
};

/// AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) with the arithmetic of torch.optim.AdamW on
/// the CPU: float32 state, constants rounded to float32. With g the gradient and t the step from 1:
///   p *= 1 - lr decay,  m += (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g g,
///   p -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon).
class AdamW {
 public:
  AdamW(const FlatParameters& trainable, AdamWConfig config);

  /// One step, in one pass over memory. The gradients count `gradient_scale` times (clipping) and
  /// are left as they are.
  void update(FlatParameters& trainable, double learning_rate, double gradient_scale = 1.0);

  std::int64_t num_updates() const { return num_updates_; }
  const at::Tensor& first_moment() const { return first_; }
  const at::Tensor& second_moment() const { return second_; }
  /// Goes on from a saved state; the tensors are copied. Throws ValueError for another shape.
  void restore(std::int64_t num_updates, const at::Tensor& first, const at::Tensor& second);

 private:
  AdamWConfig config_;
  std::int64_t num_updates_ = 0;
  at::Tensor first_, second_;  // flat, like FlatParameters::values()
};

/// The same update from tensor operations, on any device. `num_updates` counts this one.
void adamw_reference(const AdamWConfig& config, std::int64_t num_updates, double learning_rate,
                     const at::Tensor& gradient, at::Tensor& value, at::Tensor& first,
                     at::Tensor& second);

}  // namespace tailor::trainer
