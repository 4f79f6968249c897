#include "trainer/plan/cost.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace tailor::trainer::plan {
namespace {

/// Rank-local sizes of a stage: all of it, and what decides the peak.
struct StageSizes {
  Share all;
  double largest_gathered = 0.0;  // of a layer and the next
  double largest_saved = 0.0;     // of a layer, a token
};

/// What a layer lacks until it is gathered.
double gathered_weights(const Share& layer, const Layout& layout) {
  return static_cast<double>((layout.dp_shard > 1 ? layer.divided_weights() : 0) +
                             (layout.expert_shard() > 1 ? layer.expert_weights : 0));
}

StageSizes stage_sizes(const Architecture& a, const AdapterSpec& adapter,
                       const ClusterSpec& cluster, const Workload& workload, const Layout& layout,
                       const Stage& stage) {
  StageSizes out;
  if (stage.has_embedding) out.all += embedding_share(a, layout);
  double before = 0.0;
  for (auto layer = stage.first; layer < stage.last; ++layer) {
    const auto share = layer_share(a, adapter, cluster, workload, layout, layer);
    out.all += share;
    out.largest_saved = std::max(out.largest_saved, share.saved_values);
    const double gathered = gathered_weights(share, layout);
    out.largest_gathered = std::max(out.largest_gathered, before + gathered);
    before = gathered;
  }
  if (stage.has_head) out.all += head_share(a, adapter, cluster, workload, layout);
  return out;
}

RankMemory stage_memory(const Architecture& a, const StageSizes& sizes, const ClusterSpec& cluster,
                        const Workload& workload, const Layout& layout, const Stage& stage,
                        std::int64_t in_flight) {
  constexpr double kAdapterBytes = 16.0;    // values, gradients, two moments in float32
  constexpr std::int64_t kLogitRows = 256;  // of a chunk of the loss
  constexpr double kReserveBytes = 2e9, kReserveShare = 0.05;
  const double value = static_cast<double>(workload.value_bytes);
  const double tokens = static_cast<double>(workload.micro_batch_tokens());
  const double layers = static_cast<double>(stage.last - stage.first);
  const double kept =
      workload.gradient_checkpointing
          ? layers * static_cast<double>(a.hidden_size) * static_cast<double>(in_flight) +
                sizes.largest_saved
          : sizes.all.saved_values * static_cast<double>(in_flight);
  RankMemory out;
  out.weights =
      value *
      (static_cast<double>(sizes.all.whole_weights) +
       static_cast<double>(sizes.all.divided_weights()) / static_cast<double>(layout.dp_shard) +
       static_cast<double>(sizes.all.expert_weights) / static_cast<double>(layout.expert_shard()));
  out.gathered = value * sizes.largest_gathered;
  out.adapter = kAdapterBytes * static_cast<double>(sizes.all.adapter_values());
  out.activations = value * tokens * (kept + sizes.largest_saved);
  if (stage.has_head) {
    out.logits = 2.0 * 4.0 *
                 static_cast<double>(std::min(workload.micro_batch_tokens(), kLogitRows)) *
                 static_cast<double>(a.vocab_size) / static_cast<double>(layout.tp);
  }
  out.reserve = kReserveBytes + kReserveShare * cluster.memory_bytes;
  return out;
}

StageCost stage_cost(const Architecture& a, const AdapterSpec& adapter, const ClusterSpec& cluster,
                     const Workload& workload, const Layout& layout, std::int64_t index,
                     std::int64_t num_micro_batches) {
  StageCost out;
  out.stage = stage(a, layout, index);
  const auto sizes = stage_sizes(a, adapter, cluster, workload, layout, out.stage);
  out.share = sizes.all;
  out.memory = stage_memory(a, sizes, cluster, workload, layout, out.stage,
                            std::min(num_micro_batches, layout.pp - index));
  const double forwards = workload.gradient_checkpointing ? 2.0 : 1.0;
  out.compute_s = forwards * sizes.all.forward_s + sizes.all.backward_s;
  out.traffic = stage_traffic(a, sizes.all, cluster, workload, layout, out.stage);
  const double waits_for_weights =
      2.0 * std::max(0.0, out.traffic.gather.seconds - out.compute_s / 2.0);
  out.communication_s = out.traffic.tensor.seconds + out.traffic.expert.seconds +
                        out.traffic.pipeline.seconds + waits_for_weights;
  return out;
}

double micro_batch_s(const StageCost& stage) { return stage.compute_s + stage.communication_s; }

double gradient_s(const StageCost& stage) {
  return stage.traffic.tensor_gradients.seconds + stage.traffic.gradients.seconds +
         stage.traffic.expert_gradients.seconds;
}

}  // namespace

std::string RankMemory::largest() const {
  const std::array<std::pair<double, const char*>, 6> parts = {{{weights, "base weights"},
                                                                {gathered, "gathered layers"},
                                                                {adapter, "adapter"},
                                                                {activations, "activations"},
                                                                {logits, "logits"},
                                                                {reserve, "reserve"}}};
  return std::max_element(parts.begin(), parts.end())->second;
}

LayoutCost cost(const Architecture& a, const AdapterSpec& adapter, const ClusterSpec& cluster,
                const Workload& workload, const Layout& layout) {
  LayoutCost out;
  out.layout = layout;
  out.num_micro_batches =
      workload.tokens_per_step / (layout.data_ranks() * workload.micro_batch_tokens());
  for (std::int64_t i = 0; i < layout.pp; ++i) {
    out.stages.push_back(
        stage_cost(a, adapter, cluster, workload, layout, i, out.num_micro_batches));
    const auto at = out.stages.size() - 1;
    const auto& added = out.stages[at];
    if (micro_batch_s(added) > micro_batch_s(out.stages[out.slowest])) out.slowest = at;
    if (added.memory.total() > out.stages[out.fullest].memory.total()) out.fullest = at;
    out.gradients_s = std::max(out.gradients_s, gradient_s(added));
  }
  const double m = static_cast<double>(out.num_micro_batches), p = static_cast<double>(layout.pp);
  const auto& slowest = out.stages[out.slowest];
  const double pipeline_s = (m + p - 1.0) * micro_batch_s(slowest);
  out.step_s = pipeline_s + out.gradients_s;
  out.compute_s = m * slowest.compute_s;
  out.bubble = (p - 1.0) / (m + p - 1.0) * pipeline_s / out.step_s;
  out.tokens_per_second = static_cast<double>(workload.tokens_per_step) / out.step_s;
  return out;
}

std::vector<AxisTraffic> LayoutCost::traffic() const {
  const auto& t = stages[slowest].traffic;
  const double m = static_cast<double>(num_micro_batches);
  std::vector<AxisTraffic> rows = {
      {"tp", "activations", m * t.tensor},
      {"tp", "gradients of whole factors", t.tensor_gradients},
      {"ep", "rows of experts", m * t.expert},
      {"pp", "activations", m * t.pipeline},
      {"dp_shard", "base weights", 2.0 * m * t.gather, /*hidden=*/true},
      {"dp x ep", "adapter gradients", t.gradients},
      {"dp", "gradients of experts' factors", t.expert_gradients}};
  std::erase_if(rows, [](const AxisTraffic& row) { return row.transfer.collectives == 0; });
  return rows;
}

}  // namespace tailor::trainer::plan
