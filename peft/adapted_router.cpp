#include "peft/adapted_router.hpp"

#include <ATen/ops/zeros.h>

namespace tailor::peft {
namespace {

at::Tensor copy_of(const at::Tensor& loaded, at::IntArrayRef shape) {
  return loaded.defined() ? loaded.detach().clone() : at::zeros(shape, at::kFloat);
}

}  // namespace

AdaptedRouter::AdaptedRouter(const models::NamedRouter& router)
    : router_(router),
      base_ED_(router.router().weight()),
      base_bias_E_(router.router().correction_bias()) {
  const auto& config = router.block->config();
  weight_ED_ = copy_of(base_ED_, {config.router.num_experts, config.hidden_size});
  weight_ED_.requires_grad_();
  if (config.correction_bias) bias_E_ = copy_of(base_bias_E_, {config.router.num_experts});
  set_enabled(true);
}

void AdaptedRouter::set_enabled(bool enabled) {
  auto& router = router_.router();
  router.weight() = enabled ? weight_ED_ : base_ED_;
  router.correction_bias() = enabled ? bias_E_ : base_bias_E_;
}

std::vector<std::pair<std::string, at::Tensor>> AdaptedRouter::tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> out{{kWeight, weight_ED_.detach()}};
  if (bias_E_.defined()) out.emplace_back(kCorrectionBias, bias_E_);
  return out;
}

std::string saved_key(const std::string& path, const std::string& parameter) {
  constexpr const char* kMixtral = ".block_sparse_moe.";
  auto out = "base_model.model." + path + '.' + parameter;
  if (const auto at = out.find(kMixtral); at != std::string::npos)
    out.replace(at, std::string(kMixtral).size(), ".mlp.");
  return out;
}

}  // namespace tailor::peft
