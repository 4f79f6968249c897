#include "trainer/sft/flat_parameters.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

namespace tailor::trainer {

FlatParameters::FlatParameters(Named parameters) : parameters_(std::move(parameters)) {
  const at::NoGradGuard no_grad;
  std::int64_t total = 0;
  for (const auto& [name, parameter] : parameters_) {
    TORCH_CHECK_VALUE(parameter.scalar_type() == at::kFloat, name,
                      ": trainable parameters are float32, found ", parameter.scalar_type());
    total += parameter.numel();
  }
  const auto device =
      parameters_.empty() ? at::Device(at::kCPU) : parameters_.front().second.device();
  values_ = at::zeros({total}, at::TensorOptions(device).dtype(at::kFloat));
  gradients_ = at::zeros_like(values_);
  const auto values = views(values_), gradients = views(gradients_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    auto& parameter = parameters_[i].second;
    values[i].second.copy_(parameter);
    parameter.set_data(values[i].second);  // keeps its identity: the layer's member follows
    parameter.mutable_grad() = gradients[i].second.detach();  // autograd adds into it
  }
}

FlatParameters::Named FlatParameters::views(const at::Tensor& flat) const {
  Named out;
  out.reserve(parameters_.size());
  std::int64_t begin = 0;
  for (const auto& [name, parameter] : parameters_) {
    out.emplace_back(name, flat.narrow(0, begin, parameter.numel()).view(parameter.sizes()));
    begin += parameter.numel();
  }
  return out;
}

}  // namespace tailor::trainer
