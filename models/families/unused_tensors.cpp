#include "models/families/unused_tensors.hpp"

#include <set>

namespace tailor::models {

std::vector<std::string> unused_tensors(CausalLM& model, const Pretrained& pretrained) {
  std::set<std::string> read{"lm_head.weight"};
  for (const auto& parameter : model.parameters()) read.insert(parameter.name);
  std::vector<std::string> out;
  const auto& shape = model.shape();
  const bool predicts_further =
      shape.model_type.starts_with("deepseek") || shape.model_type == "kimi_k2";
  const auto behind = "model.layers." + std::to_string(shape.num_hidden_layers) + '.';
  for (const auto& entry : pretrained.tensors->entries()) {
    if (read.contains(entry.name) || entry.name.ends_with("rotary_emb.inv_freq")) continue;
    if (predicts_further && entry.name.starts_with(behind)) continue;
    out.push_back(entry.name);
  }
  return out;
}

}  // namespace tailor::models
