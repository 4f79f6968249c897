#include "models/families/routers.hpp"

#include <map>

#include "models/layers/decoder.hpp"

namespace tailor::models {
namespace {

const std::string kWeight = ".weight";

}  // namespace

std::vector<NamedRouter> routers(CausalLM& model) {
  auto* decoder = model.decoder();
  if (decoder == nullptr) return {};
  std::map<const at::Tensor*, std::string> names;  // a parameter knows its whole name in the model
  for (const auto& parameter : model.parameters()) names[parameter.value] = parameter.name;
  std::vector<NamedRouter> out;
  for (const auto& layer : decoder->layers()) {
    auto* block = dynamic_cast<MoeBlock*>(&layer->feed_forward());
    if (block == nullptr) continue;
    const auto weight = names.at(block->gate().parameters().front().value);
    out.push_back({weight.substr(0, weight.size() - kWeight.size()), block});
  }
  return out;
}

}  // namespace tailor::models
