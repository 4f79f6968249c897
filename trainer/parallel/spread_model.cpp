#include "trainer/parallel/spread_model.hpp"

#include <string>

#include "distributed/expert_parallel.hpp"
#include "distributed/sharded_base.hpp"
#include "distributed/tensor_parallel.hpp"
#include "models/families/routers.hpp"
#include "models/layers/decoder.hpp"
#include "models/layers/moe.hpp"
#include "trainer/parallel/pipeline.hpp"

namespace tailor::trainer {
namespace {

/// Every rank of ep holds equally many experts, and every rank of tp a part of each one's width.
void divide_experts(models::MoeBlock& block, const distributed::Mesh& mesh) {
  const auto& config = block.config();
  const std::int64_t ep = mesh.sizes.ep, tp = mesh.sizes.tp;
  const auto num_experts = config.router.num_experts;
  if (num_experts % ep != 0)
    throw configs::ConfigError("expert_parallel_size " + std::to_string(ep) +
                               ": expected a divisor of the " + std::to_string(num_experts) +
                               " experts of a layer");
  if (config.moe_intermediate_size % tp != 0)
    throw configs::ConfigError("tensor_parallel_size " + std::to_string(tp) +
                               ": expected a divisor of the experts' width, " +
                               std::to_string(config.moe_intermediate_size));
  const auto held = num_experts / ep;
  block.experts().keep({.first = mesh.place.ep * held, .count = held}, mesh.place.tp, tp);
  if (ep > 1) block.set_exchange(distributed::make_expert_parallel_exchange(mesh.ep, num_experts));
}

}  // namespace

models::TakeParameter spread_model(models::CausalLM& model, const distributed::Mesh& mesh) {
  if (mesh.sizes.pp > 1)
    model.keep_stage(stage_of(model.shape().num_hidden_layers, mesh.place.pp, mesh.sizes.pp));
  distributed::cut_for_tensor_parallel(model, mesh.place.tp, mesh.sizes.tp);
  const auto routers = models::routers(model);
  if (mesh.sizes.ep > 1 || mesh.sizes.tp > 1)
    for (const auto& router : routers) divide_experts(*router.block, mesh);
  if (auto* decoder = model.decoder(); decoder != nullptr && mesh.sizes.tp > 1)
    decoder->set_region(distributed::make_tensor_region(mesh.tp));
  // A stage may hold dense layers alone; then another one has the experts.
  if (mesh.sizes.ep > 1 && routers.empty() && mesh.sizes.pp == 1)
    throw configs::ConfigError("expert_parallel_size " + std::to_string(mesh.sizes.ep) + ": " +
                               model.shape().model_type + " has no experts; leave it at 1");
  if (mesh.sizes.dp_shard == 1) return {};
  const auto base = distributed::shard_base(model, mesh.dp_shard, mesh.expert_shard);
  return [base](const models::NamedParameter& parameter, const models::ReadRows& read) {
    return base->take(parameter, read);
  };
}

VocabularyPart vocabulary_part(models::CausalLM& model, const distributed::Mesh& mesh) {
  if (mesh.sizes.tp == 1) return {};
  return {.group = mesh.tp.get(), .first = model.decoder()->embed_tokens().first_id()};
}

}  // namespace tailor::trainer
