#include "peft/grouped_lora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "peft/init.hpp"
#include "peft/target_modules.hpp"

namespace tailor::peft {
namespace {

using Dim = models::Sharding::Dim;

struct WholeSizes {
  std::int64_t in, out;  // of an expert's matrix, over all ranks that hold a part
};

WholeSizes whole_sizes(const models::GroupedLinearBase& layer) {
  const auto part = layer.sharding();
  return {layer.in_features() * (part.dim == Dim::In ? part.count : 1),
          layer.out_features() * (part.dim == Dim::Out ? part.count : 1)};
}

/// Its output is the hidden state; gate and up read it.
bool leads_back(const std::string& projection) {
  return projection == "down_proj" || projection == "w2";
}

}  // namespace

GroupedLoraLinear::GroupedLoraLinear(std::shared_ptr<models::GroupedLinearBase> inner,
                                     std::string name, std::string projection,
                                     const LoraConfig& config, std::uint64_t seed,
                                     const std::string& place)
    : inner_(std::move(inner)), name_(std::move(name)), projection_(std::move(projection)) {
  add_child("", *inner_);
  const auto first = expert_path(inner_->experts().first);
  scale_ = config.scale_of(first);
  const auto r = config.rank_of(first);
  const auto [in, out] = whole_sizes(*inner_);
  if (r > std::min(in, out))
    throw configs::ConfigError(place_of_key(config, place, config.rank_key(first)) +
                               ": the rank of " + first + " is " + std::to_string(r) +
                               ", above min(in, out) = " + std::to_string(std::min(in, out)));
  for (std::int64_t e = 1; e < inner_->experts().count; ++e) {
    const auto path = expert_path(inner_->experts().first + e);
    if (config.rank_of(path) != r || config.scale_of(path) != scale_)
      throw configs::ConfigError(place + ": rank_pattern or alpha_pattern tells " + path +
                                 " apart from " + first +
                                 "; the experts of a layer have one rank and scale");
  }
  const bool down = leads_back(projection_);
  const bool all = config.expert_lora == ExpertLora::Shared;
  const bool outer = config.expert_lora == ExpertLora::SharedOuter;
  initialise(config, r, seed, all || (outer && !down), all || (outer && down));
}

void GroupedLoraLinear::initialise(const LoraConfig& config, std::int64_t r, std::uint64_t seed,
                                   bool share_A, bool share_B) {
  const auto [in, out] = whole_sizes(*inner_);
  // Made whole, then cut: the values do not depend on how many ranks share the layer.
  const auto made = [&, in = in, out = out](const std::string& path) {
    return part_of(init_factors(config.init_lora_weights,
                                {.in = in, .out = out, .r = r, .seed = seed, .path = path}),
                   inner_->sharding());
  };
  const auto shared = made(path());
  std::vector<at::Tensor> A, B;
  const auto [first, count] = inner_->experts();
  for (std::int64_t e = 0; e < count && !(share_A && share_B); ++e) {
    auto own = made(expert_path(first + e));
    A.push_back(std::move(own.A_RI));
    B.push_back(std::move(own.B_OR));
  }
  const auto device = weights().empty() ? at::Device(at::kCPU) : weights().front().device();
  A_ = (share_A ? shared.A_RI : at::stack(A)).to(device).requires_grad_();
  B_ = (share_B ? shared.B_OR : at::stack(B)).to(device).requires_grad_();
}

at::Tensor GroupedLoraLinear::forward(const at::Tensor& x_MI,
                                      std::span<const std::int64_t> row_offsets) {
  if (!enabled_) return inner_->forward(x_MI, row_offsets);
  const auto layer = operands();
  return grouped_lora(x_MI, row_offsets, {&layer, 1}).front();
}

void GroupedLoraLinear::forward_siblings(const at::Tensor& x_MI,
                                         std::span<const std::int64_t> row_offsets,
                                         std::span<models::GroupedLinearBase* const> layers,
                                         std::span<at::Tensor> y) {
  std::vector<GroupedLoraOperands> adapted;  // the others go on their own
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto* lora = dynamic_cast<const GroupedLoraLinear*>(layers[i]);
    if (lora != nullptr && lora->enabled_) {
      adapted.push_back(lora->operands());
      places.push_back(i);
    } else {
      y[i] = layers[i]->forward(x_MI, row_offsets);
    }
  }
  if (adapted.empty()) return;
  auto answers = grouped_lora(x_MI, row_offsets, adapted);
  for (std::size_t i = 0; i < places.size(); ++i) y[places[i]] = std::move(answers[i]);
}

std::string GroupedLoraLinear::expert_path(std::int64_t expert) const {
  return name_ + '.' + std::to_string(expert) + '.' + projection_;
}

at::Tensor GroupedLoraLinear::A_of(std::int64_t expert) const {
  return shares_A() ? A_ : A_.select(0, expert - inner_->experts().first);
}

at::Tensor GroupedLoraLinear::B_of(std::int64_t expert) const {
  return shares_B() ? B_ : B_.select(0, expert - inner_->experts().first);
}

at::Tensor GroupedLoraLinear::merged_weight(std::int64_t expert) const {
  const at::NoGradGuard no_grad;
  const auto place = static_cast<std::size_t>(expert - inner_->experts().first);
  const auto& stored_OI = weights()[place].stored();
  return (stored_OI.to(at::kFloat) + scale_ * B_of(expert).mm(A_of(expert)))
      .to(stored_OI.scalar_type());
}

}  // namespace tailor::peft
