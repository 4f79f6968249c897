#include "peft/merge.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/norm.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "models/files/file_error.hpp"

namespace tailor::peft {
namespace {

double squared_norm(const at::Tensor& t) {
  const auto norm = t.norm().item<double>();
  return norm * norm;
}

}  // namespace

MergedTensors::MergedTensors(std::shared_ptr<const models::TensorSource> base,
                             const LoraAdapter& adapter)
    : base_(std::move(base)) {
  const auto require = [&](const std::string& name) {
    if (!base_->contains(name))
      throw models::FileError("tensor " + name + " is adapted and missing in the base model");
  };
  for (auto& module : adapter.modules()) {
    auto name = module.path + ".weight";
    require(name);
    modules_.emplace(std::move(name), std::move(module));
  }
  for (const auto& router : adapter.routers())
    for (auto& [parameter, value] : router->tensors()) {
      auto name = router->path() + '.' + parameter;
      require(name);
      replaced_.emplace(std::move(name), std::move(value));
    }
}

at::Tensor MergedTensors::read(const std::string& name, at::ScalarType dtype) const {
  if (const auto router = replaced_.find(name); router != replaced_.end())
    return router->second.to(dtype);
  const auto found = modules_.find(name);
  if (found == modules_.end()) return base_->read(name, dtype);
  const at::NoGradGuard no_grad;
  const auto& module = found->second;
  const auto weight_OI = base_->read(name, at::kFloat);
  if (weight_OI.dim() != 2 || weight_OI.size(0) != module.B.size(0) ||
      weight_OI.size(1) != module.A.size(1))
    throw models::FileError("tensor " + name + ": its shape differs from that of the adapter's " +
                            module.path);
  const auto delta_OI = module.scale * module.B.mm(module.A);
  const auto exact_OI = weight_OI + delta_OI;
  auto merged_OI = exact_OI.to(dtype);

  const auto written_OI = merged_OI.to(at::kFloat);
  const Loss loss{.delta = squared_norm(delta_OI),
                  .applied = squared_norm(written_OI - weight_OI.to(dtype).to(at::kFloat)),
                  .max_error = (written_OI - exact_OI).abs().max().item<double>()};
  const std::lock_guard lock(mutex_);
  losses_[name] = loss;
  return merged_OI;
}

MergeReport MergedTensors::report() const {
  const std::lock_guard lock(mutex_);
  MergeReport report;
  for (const auto& [name, loss] : losses_) {
    report.num_layers += 1;
    report.delta_norm += loss.delta;
    report.applied_norm += loss.applied;
    report.max_rounding_error = std::max(report.max_rounding_error, loss.max_error);
  }
  report.delta_norm = std::sqrt(report.delta_norm);
  report.applied_norm = std::sqrt(report.applied_norm);
  return report;
}

}  // namespace tailor::peft
