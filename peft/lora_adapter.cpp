#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "peft/lora.hpp"
#include "peft/target_modules.hpp"

namespace tailor::peft {
namespace {

using models::Sharding;

/// Options that speak of experts, on a model without any, were meant for another model.
void check_experts(const LoraConfig& config, bool has_experts, const std::string& place) {
  if (has_experts) return;
  const auto refuse = [&](const char* key) {
    throw configs::ConfigError(place_of_key(config, place, key) +
                               ": the model has no routed experts; leave it out");
  };
  if (config.expert_lora != ExpertLora::PerExpert) refuse("expert_lora");
  if (config.moe_rank != MoeRank::Same) refuse("moe_rank");
  if (config.train_router) refuse("train_router");
}

/// All experts of the seat, or none: their projections are one module.
bool all_targeted(const std::vector<bool>& targeted, std::size_t begin, std::size_t count,
                  const models::NamedGroupedSlot& slot, const std::string& place) {
  const auto first = targeted.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto chosen =
      static_cast<std::size_t>(std::count(first, first + static_cast<std::ptrdiff_t>(count), true));
  if (chosen != 0 && chosen != count)
    throw configs::ConfigError(place + ": means " + std::to_string(chosen) + " of the " +
                               std::to_string(count) + " experts of " + slot.name + " (" +
                               slot.slot->projection() + "); expected all of them or none");
  return chosen != 0;
}

Trainable trainable(const std::string& path, char factor, const at::Tensor& value,
                    const Sharding& sharding) {
  Trainable out{.name = path + ".lora_" + factor + ".weight", .value = value};
  const bool cut = sharding.dim == (factor == 'A' ? Sharding::Dim::In : Sharding::Dim::Out);
  out.sharding = sharding;
  if (cut) out.sharded_dim = value.dim() - (factor == 'A' ? 1 : 2);
  return out;
}

Trainable trainable(const GroupedLoraLinear& layer, char factor, const at::Tensor& value) {
  auto out = trainable(layer.path(), factor, value, layer.sharding());
  const auto range = layer.experts();
  out.kind = value.dim() == 3 ? Trainable::Kind::PerExpert : Trainable::Kind::SharedByExperts;
  if (value.dim() == 3) out.experts = range;
  for (std::int64_t e = 0; e < range.count; ++e)
    out.keys.push_back(factor_key(layer.expert_path(range.first + e), factor));
  return out;
}

Trainable saved(const AdaptedRouter& router, const char* parameter, const at::Tensor& value) {
  return {.name = router.path() + '.' + parameter,
          .value = value,
          .experts = {},
          .sharded_dim = {},
          .sharding = {},
          .keys = {saved_key(router.path(), parameter)}};
}

}  // namespace

std::string factor_key(const std::string& path, char factor) {
  return "base_model.model." + path + ".lora_" + factor + ".weight";
}

ModulePaths module_paths_of(models::CausalLM& model) {
  ModulePaths out;
  out.head = "lm_head";  // no seat of its own where a model ties it to the embedding
  for (const auto& [name, slot] : model.slots()) {
    out.linear.push_back(name);
    if (slot == &model.lm_head()) out.head = name;
  }
  for (const auto& slot : model.grouped_slots()) {
    const auto [first, count] = slot.slot->layer().experts();
    for (std::int64_t e = 0; e < count; ++e) out.linear.push_back(slot.expert_path(first + e));
  }
  out.others.push_back(out.head);
  for (const auto& parameter : model.parameters())
    out.others.push_back(parameter.name.substr(0, parameter.name.rfind('.')));
  return out;
}

LoraAdapter::LoraAdapter(models::CausalLM& model, LoraConfig config, std::uint64_t seed,
                         const std::string& place, const ModulePaths* whole)
    : dropout_(std::make_shared<const DropoutState*>(nullptr)) {
  const auto slots = model.slots();
  const auto grouped = model.grouped_slots();
  has_experts_ = !grouped.empty();
  // Of the whole model: a stage of a pipeline may hold dense layers alone.
  check_experts(config, has_experts_ || model.shape().num_experts > 0, place);
  const auto held = module_paths_of(model);
  const auto& all = whole != nullptr ? *whole : held;
  check_all_used(config, all.linear, all.others, place);
  const auto moe_rank = place_of_key(config, place, "moe_rank");
  config_ = with_expert_ranks(std::move(config), model.shape().num_experts_per_tok, moe_rank);
  std::unordered_set<std::string_view> targets;
  for (const auto i : match_targets(config_, all.linear, all.head, place))
    targets.insert(all.linear[i]);
  std::vector<bool> targeted;
  for (const auto& path : held.linear) targeted.push_back(targets.contains(path));
  for (std::size_t i = 0; i < slots.size(); ++i)
    if (targeted[i]) seat_linear(*slots[i].slot, held.linear[i], seed, place);
  auto begin = slots.size();
  for (const auto& slot : grouped) {
    const auto count = static_cast<std::size_t>(slot.slot->layer().experts().count);
    if (all_targeted(targeted, begin, count, slot, place)) seat_grouped(slot, seed, place);
    begin += count;
  }
  module_paths_ = all.linear;
  std::erase(module_paths_, all.head);
  if (!config_.train_router) return;
  for (const auto& router : models::routers(model))
    routers_.push_back(std::make_shared<AdaptedRouter>(router));
}

void LoraAdapter::seat_linear(models::LinearSlot& slot, const std::string& path, std::uint64_t seed,
                              const std::string& place) {
  slot.rewrap([&](std::shared_ptr<models::LinearBase> inner) {
    layers_.push_back(
        std::make_shared<LoraLinear>(std::move(inner), path, config_, seed, dropout_, place));
    return layers_.back();
  });
}

void LoraAdapter::seat_grouped(const models::NamedGroupedSlot& slot, std::uint64_t seed,
                               const std::string& place) {
  if (config_.lora_dropout > 0.0)
    throw configs::ConfigError(place_of_key(config_, place, "lora_dropout") +
                               ": expected 0 where routed experts are adapted (" + slot.name +
                               "), as in PEFT; set it to 0 or name the experts in exclude_modules");
  slot.slot->rewrap([&](std::shared_ptr<models::GroupedLinearBase> inner) {
    grouped_layers_.push_back(std::make_shared<GroupedLoraLinear>(
        std::move(inner), slot.name, slot.slot->projection(), config_, seed, place));
    return grouped_layers_.back();
  });
}

std::vector<AdaptedModule> LoraAdapter::modules() const {
  std::vector<AdaptedModule> out;
  for (const auto& layer : layers_)
    out.push_back({.path = layer->path(),
                   .A = layer->A().detach(),
                   .B = layer->B().detach(),
                   .scale = layer->scale()});
  for (const auto& layer : grouped_layers_) {
    const auto [first, count] = layer->experts();
    for (auto e = first; e < first + count; ++e)
      out.push_back({.path = layer->expert_path(e),
                     .A = layer->A_of(e).detach(),
                     .B = layer->B_of(e).detach(),
                     .scale = layer->scale(),
                     .shared_A = layer->shares_A(),
                     .shared_B = layer->shares_B()});
  }
  return out;
}

std::vector<at::Tensor> LoraAdapter::parameters() const {
  std::vector<at::Tensor> out;
  for (const auto& layer : layers_) out.insert(out.end(), {layer->A(), layer->B()});
  for (const auto& layer : grouped_layers_) out.insert(out.end(), {layer->A(), layer->B()});
  for (const auto& router : routers_) out.push_back(router->weight());
  return out;
}

std::vector<Trainable> LoraAdapter::trainables() const {
  std::vector<Trainable> out;
  for (const auto& layer : layers_)
    for (const char factor : {'A', 'B'}) {
      out.push_back(trainable(layer->path(), factor, factor == 'A' ? layer->A() : layer->B(),
                              layer->sharding()));
      out.back().keys = {factor_key(layer->path(), factor)};
    }
  for (const auto& layer : grouped_layers_)
    for (const char factor : {'A', 'B'})
      out.push_back(trainable(*layer, factor, factor == 'A' ? layer->A() : layer->B()));
  for (const auto& router : routers_)
    out.push_back(saved(*router, AdaptedRouter::kWeight, router->weight()));
  return out;
}

std::vector<Trainable> LoraAdapter::buffers() const {
  std::vector<Trainable> out;
  for (const auto& router : routers_)
    if (router->correction_bias().defined())
      out.push_back(saved(*router, AdaptedRouter::kCorrectionBias, router->correction_bias()));
  return out;
}

std::map<std::string, LoraAdapter::ClassCount> LoraAdapter::counts() const {
  std::map<std::string, ClassCount> out;
  for (const auto& layer : layers_) {
    auto& count = out[module_class(layer->path())];
    count.layers += 1;
    count.parameters += layer->A().numel() + layer->B().numel();
  }
  for (const auto& layer : grouped_layers_) {
    auto& count = out[module_class(layer->name()) + '.' + layer->projection()];
    count.layers += layer->experts().count;
    count.parameters += layer->A().numel() + layer->B().numel();
  }
  for (const auto& router : routers_) {
    auto& count = out["router"];
    count.layers += 1;
    count.parameters += router->weight().numel();
  }
  return out;
}

std::int64_t LoraAdapter::num_parameters() const {
  std::int64_t sum = 0;
  for (const auto& [name, count] : counts()) sum += count.parameters;
  return sum;
}

void LoraAdapter::set_enabled(bool enabled) {
  for (const auto& layer : layers_) layer->set_enabled(enabled);
  for (const auto& layer : grouped_layers_) layer->set_enabled(enabled);
  for (const auto& router : routers_) router->set_enabled(enabled);
}

}  // namespace tailor::peft
