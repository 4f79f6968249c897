#include "trainer/sft/optimizer.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace tailor::trainer {
namespace {

/// Factors of one step, the same for every element.
struct Factors {
  float gradient_scale, keep, first_share, beta2, second_share, correction, epsilon, step_size;
};

Factors factors(const AdamWConfig& config, std::int64_t num_updates, double learning_rate,
                double gradient_scale) {
  const auto t = static_cast<double>(num_updates);
  const auto f = [](double x) { return static_cast<float>(x); };
  return {.gradient_scale = f(gradient_scale),
          .keep = f(1.0 - learning_rate * config.weight_decay),
          .first_share = f(1.0 - config.beta1),
          .beta2 = f(config.beta2),
          .second_share = f(1.0 - config.beta2),
          .correction = f(std::sqrt(1.0 - std::pow(config.beta2, t))),
          .epsilon = f(config.epsilon),
          .step_size = f(-learning_rate / (1.0 - std::pow(config.beta1, t)))};
}

}  // namespace

AdamW::AdamW(const FlatParameters& trainable, AdamWConfig config)
    : config_(config),
      first_(at::zeros_like(trainable.values())),
      second_(at::zeros_like(trainable.values())) {}

void AdamW::update(FlatParameters& trainable, double learning_rate, double gradient_scale) {
  TORCH_CHECK_VALUE(trainable.values().numel() == first_.numel(), "AdamW: made for ",
                    first_.numel(), " parameters, got ", trainable.values().numel());
  ++num_updates_;
  if (!first_.is_cpu())
    return adamw_reference(config_, num_updates_, learning_rate,
                           trainable.gradients() * gradient_scale, trainable.values(), first_,
                           second_);
  const auto c = factors(config_, num_updates_, learning_rate, gradient_scale);
  // Raw pointers before the loop: worker threads may not touch tensors.
  const auto* gradient = trainable.gradients().const_data_ptr<float>();
  auto* value = trainable.values().mutable_data_ptr<float>();
  auto* first = first_.mutable_data_ptr<float>();
  auto* second = second_.mutable_data_ptr<float>();
  at::parallel_for(0, first_.numel(), 65536, [=](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) {
      const float g = gradient[i] * c.gradient_scale;
      const float m = first[i] + c.first_share * (g - first[i]);
      const float v = second[i] * c.beta2 + c.second_share * g * g;
      first[i] = m;
      second[i] = v;
      value[i] = value[i] * c.keep + c.step_size * m / (std::sqrt(v) / c.correction + c.epsilon);
    }
  });
}

void AdamW::restore(std::int64_t num_updates, const at::Tensor& first, const at::Tensor& second) {
  TORCH_CHECK_VALUE(first.sizes() == first_.sizes() && second.sizes() == second_.sizes(),
                    "AdamW: moments of ", first_.sizes(), " expected, got ", first.sizes(), " and ",
                    second.sizes());
  num_updates_ = num_updates;
  first_.copy_(first);
  second_.copy_(second);
}

void adamw_reference(const AdamWConfig& config, std::int64_t num_updates, double learning_rate,
                     const at::Tensor& gradient, at::Tensor& value, at::Tensor& first,
                     at::Tensor& second) {
  const at::NoGradGuard no_grad;
  const auto t = static_cast<double>(num_updates);
  value.mul_(1.0 - learning_rate * config.weight_decay);
  first.lerp_(gradient, 1.0 - config.beta1);
  second.mul_(config.beta2).addcmul_(gradient, gradient, 1.0 - config.beta2);
  const auto denominator =
      (second.sqrt() / std::sqrt(1.0 - std::pow(config.beta2, t))).add_(config.epsilon);
  value.addcdiv_(first, denominator, -learning_rate / (1.0 - std::pow(config.beta1, t)));
}

}  // namespace tailor::trainer
