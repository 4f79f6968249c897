#pragma once

#include <ATen/core/Tensor.h>

#include "models/layers/layer_context.hpp"
#include "models/layers/linear.hpp"

namespace tailor::models {

/// What a decoder layer does behind its attention: a dense MLP here, experts elsewhere.
class FeedForward : public Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context) const = 0;
  virtual void finish_loading(kernels::Arithmetic arithmetic) = 0;
};

/// silu(gate) up, differentiable (kernels/swiglu.hpp).
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// down(silu(gate(x)) up(x)).
class SwiGluMlp final : public FeedForward {
 public:
  SwiGluMlp(std::int64_t hidden_size, std::int64_t intermediate_size, bool bias);
  at::Tensor forward(const at::Tensor& x_TD) const;
  at::Tensor forward(const at::Tensor& x_TD, const LayerContext& /*context*/) const override {
    return forward(x_TD);
  }
  void finish_loading(kernels::Arithmetic arithmetic) override;

 private:
  LinearSlot gate_proj_, up_proj_, down_proj_;
};

}  // namespace tailor::models
