#include "peft/lora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <utility>

#include "models/kernels/random.hpp"
#include "peft/init.hpp"
#include "peft/target_modules.hpp"

namespace tailor::peft {

LoraLinear::LoraLinear(std::shared_ptr<models::LinearBase> inner, std::string path,
                       const LoraConfig& config, std::uint64_t seed,
                       std::shared_ptr<const DropoutState*> dropout, const std::string& place)
    : LinearWrapper(std::move(inner)),
      path_(std::move(path)),
      stream_(models::kernels::stream_of(path_)),
      scale_(config.scale_of(path_)),
      dropout_p_(config.lora_dropout),
      dropout_(std::move(dropout)) {
  using Dim = models::Sharding::Dim;
  const auto cut = sharding();
  const auto in = in_features() * (cut.dim == Dim::In ? cut.count : 1);
  const auto out = out_features() * (cut.dim == Dim::Out ? cut.count : 1);
  const auto r = config.rank_of(path_);
  if (r > std::min(in, out))
    throw configs::ConfigError(place_of_key(config, place, config.rank_key(path_)) +
                               ": the rank of " + path_ + " is " + std::to_string(r) +
                               ", above min(in, out) = " + std::to_string(std::min(in, out)));
  auto factors = part_of(init_factors(config.init_lora_weights,
                                      {.in = in, .out = out, .r = r, .seed = seed, .path = path_}),
                         cut);
  A_ = factors.A_RI.to(weight().device()).requires_grad_();
  B_ = factors.B_OR.to(weight().device()).requires_grad_();
}

LoraOperands LoraLinear::operands() const {
  std::optional<Dropout> dropout;
  const auto cut = sharding();
  const bool columns = cut.dim == models::Sharding::Dim::In;
  const auto part = columns ? cut.index : 0, part_count = columns ? cut.count : 1;
  if (const auto* state = *dropout_; state != nullptr && dropout_p_ > 0.0)
    dropout = Dropout{.p = dropout_p_,
                      .seed = state->seed,
                      .stream = models::kernels::stream_of(
                          "dropout", {static_cast<std::uint64_t>(state->step), stream_}),
                      .first_token = state->first_token,
                      .first_feature = part * in_features(),
                      .num_features = part_count * in_features()};
  return {.weight = &weight(),
          .bias_O = bias(),
          .A_RI = A_,
          .B_OR = B_,
          .scale = scale_,
          .dropout = dropout};
}

at::Tensor LoraLinear::forward(const at::Tensor& x_TI) {
  if (!enabled_) return inner()->forward(x_TI);
  const auto layer = operands();
  return lora_linear(x_TI, {&layer, 1}).front();
}

at::Tensor LoraLinear::forward_known(const at::Tensor& x_TI, at::Tensor y_TO) {
  if (!enabled_) return inner()->forward_known(x_TI, std::move(y_TO));
  const auto layer = operands();
  return lora_linear_known(x_TI, {&layer, 1}, {std::move(y_TO)}).front();
}

void LoraLinear::forward_siblings(const at::Tensor& x_TI,
                                  std::span<models::LinearBase* const> layers,
                                  std::span<at::Tensor> y) {
  std::vector<LoraOperands> shared;  // of the adapted ones; the others go on their own
  std::vector<std::size_t> places;
  std::vector<at::Tensor> known;  // of all that are shared, or of none
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto* lora = dynamic_cast<const LoraLinear*>(layers[i]);
    if (lora != nullptr && lora->enabled_) {
      shared.push_back(lora->operands());
      places.push_back(i);
      if (y[i].defined()) known.push_back(std::move(y[i]));
    } else {
      y[i] = y[i].defined() ? layers[i]->forward_known(x_TI, y[i]) : layers[i]->forward(x_TI);
    }
  }
  if (shared.empty()) return;
  auto adapted =
      known.empty() ? lora_linear(x_TI, shared) : lora_linear_known(x_TI, shared, std::move(known));
  for (std::size_t i = 0; i < places.size(); ++i) y[places[i]] = std::move(adapted[i]);
}

at::Tensor LoraLinear::merged_weight() const {
  const at::NoGradGuard no_grad;
  const auto& stored_OI = weight().stored();
  return (stored_OI.to(at::kFloat) + scale_ * B_.mm(A_)).to(stored_OI.scalar_type());
}

}  // namespace tailor::peft
