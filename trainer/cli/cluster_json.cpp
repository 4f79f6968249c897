// The cluster plan for programs.
#include <nlohmann/json.hpp>

#include "trainer/cli/cluster_report.hpp"

namespace tailor::trainer::cli {
namespace {

using Json = nlohmann::ordered_json;

Json parameters_json(const plan::ArchitectureCounts& counts) {
  return {{"total", counts.total()},
          {"active_per_token", counts.active()},
          {"active_per_token_without_embedding", counts.active_without_embedding()},
          {"classes",
           {{"embedding", counts.embedding},
            {"head", counts.head},
            {"attention", counts.attention},
            {"dense_mlp", counts.dense_mlp},
            {"shared_experts", counts.shared_experts},
            {"routed_experts", counts.routed_experts},
            {"routers", counts.routers},
            {"norms", counts.norms}}}};
}

Json adapter_json(const plan::AdapterSpec& spec, const plan::AdapterCounts& counts,
                  const std::string& expert_lora) {
  return {{"r", spec.r},
          {"expert_lora", expert_lora},
          {"parameters", counts.total()},
          {"tensors", counts.tensors},
          {"classes",
           {{"attention", counts.attention},
            {"dense_mlp", counts.dense_mlp},
            {"shared_experts", counts.shared_experts},
            {"routed_experts", counts.routed_experts},
            {"head", counts.head}}}};
}

Json layout_json(const plan::Layout& layout) {
  return {{"tp", layout.tp},
          {"ep", layout.ep},
          {"pp", layout.pp},
          {"dp", layout.dp},
          {"dp_shard", layout.dp_shard}};
}

Json memory_json(const plan::RankMemory& memory) {
  return {{"weights", memory.weights}, {"gathered", memory.gathered},
          {"adapter", memory.adapter}, {"activations", memory.activations},
          {"logits", memory.logits},   {"reserve", memory.reserve},
          {"total", memory.total()}};
}

Json stage_json(const plan::StageCost& stage) {
  return {{"first_layer", stage.stage.first},
          {"end_layer", stage.stage.last},
          {"weights", stage.share.weights()},
          {"adapter_parameters", stage.share.adapter_values()},
          {"memory_bytes", memory_json(stage.memory)},
          {"micro_batch_compute_s", stage.compute_s},
          {"micro_batch_communication_s", stage.communication_s}};
}

Json cost_json(const plan::LayoutCost& cost, double memory_bytes) {
  Json traffic = Json::array(), stages = Json::array();
  for (const auto& row : cost.traffic()) {
    traffic.push_back({{"axis", row.axis},
                       {"what", row.what},
                       {"bytes", row.transfer.bytes},
                       {"collectives", row.transfer.collectives},
                       {"seconds", row.transfer.seconds},
                       {"overlapped", row.hidden}});
  }
  for (const auto& stage : cost.stages) stages.push_back(stage_json(stage));
  return {{"layout", layout_json(cost.layout)},
          {"fits", cost.memory().total() <= memory_bytes},
          {"memory_bytes", cost.memory().total()},
          {"micro_batches", cost.num_micro_batches},
          {"step_time_s", cost.step_s},
          {"tokens_per_second", cost.tokens_per_second},
          {"compute_s", cost.compute_s},
          {"bubble", cost.bubble},
          {"communication", traffic},
          {"stages", stages}};
}

Json refusal_json(const plan::Refusal& refusal) {
  Json out = {{"reason", refusal.reason}, {"layouts", refusal.num_layouts}};
  if (refusal.nearest) {
    out["nearest"] = layout_json(*refusal.nearest);
    out["memory_bytes"] = refusal.bytes;
  }
  return out;
}

Json cluster_json(const plan::ClusterSpec& cluster) {
  return {{"gpus", cluster.num_gpus},
          {"gpus_per_node", cluster.gpus_per_node},
          {"gpu_memory_bytes", cluster.memory_bytes},
          {"gpu_flops", cluster.flops},
          {"gpu_memory_bandwidth", cluster.memory_bandwidth},
          {"intra_bandwidth", cluster.intra_bandwidth},
          {"inter_bandwidth", cluster.inter_bandwidth},
          {"latency_s", cluster.latency_s}};
}

Json workload_json(const plan::Workload& workload) {
  return {{"max_length", workload.max_length},
          {"micro_batch_rows", workload.micro_batch_rows},
          {"tokens_per_step", workload.tokens_per_step},
          {"value_bytes", workload.value_bytes},
          {"gradient_checkpointing", workload.gradient_checkpointing},
          {"expert_imbalance", workload.expert_imbalance}};
}

}  // namespace

std::string json_report(const ClusterPlanRequest& request, const ClusterPlan& plan) {
  const auto& model = request.architecture;
  Json out = {{"architecture", {{"name", model.name}, {"model_type", model.model_type}}},
              {"parameters", parameters_json(plan::count(model))},
              {"adapter", adapter_json(request.adapter, plan::count(model, request.adapter),
                                       plan::word(request.adapter.expert_lora))}};
  if (!request.counts_only) {
    const double memory = request.cluster.memory_bytes;
    out["cluster"] = cluster_json(request.cluster);
    out["workload"] = workload_json(request.workload);
    out["layouts"] = Json::array();
    if (plan.one) out["layouts"].push_back(cost_json(*plan.one, memory));
    if (plan.proposals) {
      for (const auto& cost : plan.proposals->best)
        out["layouts"].push_back(cost_json(cost, memory));
      out["refused"] = Json::array();
      for (const auto& refusal : plan.proposals->refused)
        out["refused"].push_back(refusal_json(refusal));
      out["layouts_tried"] = plan.proposals->num_tried;
      out["layouts_fitting"] = plan.proposals->num_fitting;
    }
    if (plan.enough_gpus) out["enough_gpus"] = *plan.enough_gpus;
    if (plan.enough_with_checkpointing)
      out["enough_gpus_with_gradient_checkpointing"] = *plan.enough_with_checkpointing;
    if (plan.with_checkpointing)
      out["with_gradient_checkpointing"] = cost_json(*plan.with_checkpointing, memory);
  }
  return out.dump(2) + "\n";
}

}  // namespace tailor::trainer::cli
