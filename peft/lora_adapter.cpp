#include <algorithm>
#include <utility>

#include "peft/lora.hpp"
#include "peft/target_modules.hpp"

namespace tailor::peft {

LoraAdapter::LoraAdapter(models::CausalLM& model, LoraConfig config, std::uint64_t seed,
                         const std::string& place)
    : config_(std::move(config)), dropout_(std::make_shared<const DropoutState*>(nullptr)) {
  const auto slots = model.slots();
  std::string head = "lm_head";  // no seat of its own where a model ties it to the embedding
  std::vector<std::string> paths;
  for (const auto& [name, slot] : slots) {
    paths.push_back(name);
    if (slot == &model.lm_head()) head = name;
  }
  const auto targets = match_targets(config_, paths, head, place);
  for (const auto i : targets) {
    slots[i].slot->rewrap([&](std::shared_ptr<models::LinearBase> inner) {
      layers_.push_back(std::make_shared<LoraLinear>(std::move(inner), paths[i],
                                                     static_cast<std::int64_t>(layers_.size()),
                                                     config_, seed, dropout_, place));
      return layers_.back();
    });
  }
  std::erase(paths, head);
  module_paths_ = std::move(paths);
}

std::vector<at::Tensor> LoraAdapter::parameters() const {
  std::vector<at::Tensor> out;
  for (const auto& layer : layers_) out.insert(out.end(), {layer->A(), layer->B()});
  return out;
}

std::map<std::string, LoraAdapter::ClassCount> LoraAdapter::counts() const {
  std::map<std::string, ClassCount> out;
  for (const auto& layer : layers_) {
    auto& count = out[module_class(layer->path())];
    count.layers += 1;
    count.parameters += layer->A().numel() + layer->B().numel();
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
}

}  // namespace tailor::peft
