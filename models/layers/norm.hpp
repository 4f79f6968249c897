#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "models/layers/module.hpp"

namespace tailor::models {

/// RMSNorm with a frozen weight, differentiable in its inputs (kernels/rms_norm.hpp).
class RmsNorm final : public Module {
 public:
  RmsNorm(std::int64_t size, double eps);

  at::Tensor forward(const at::Tensor& x_TD) const;  // any leading dimensions, rows contiguous
  /// (h, norm(h)) with h = x + delta: the residual sum and the next block's input in one pass.
  std::pair<at::Tensor, at::Tensor> add_and_norm(const at::Tensor& x_TD,
                                                 const at::Tensor& delta_TD) const;
  void finish_loading();

 private:
  at::Tensor weight_;   // as stored
  at::Tensor exact_D_;  // float32
  double eps_;
};

}  // namespace tailor::models
