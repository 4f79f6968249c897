#include "trainer/plan/traffic.hpp"

#include <algorithm>

namespace tailor::trainer::plan {
namespace {

constexpr double kGradientBytes = 4.0;

std::int64_t in_a_node(RankGroup group, const ClusterSpec& cluster) {
  return std::clamp<std::int64_t>(cluster.gpus_per_node / group.stride, 1, group.size);
}

/// Bytes a second that a rank of a ring has.
double ring_bandwidth(RankGroup group, const ClusterSpec& cluster) {
  const auto neighbours = in_a_node(group, cluster);
  if (neighbours == group.size) return cluster.intra_bandwidth;
  const double network = static_cast<double>(neighbours) * cluster.inter_bandwidth;
  return neighbours == 1 ? network : std::min(cluster.intra_bandwidth, network);
}

Transfer ring(double bytes_sent, RankGroup group, const ClusterSpec& cluster) {
  return {.collectives = 1,
          .bytes = bytes_sent,
          .seconds = bytes_sent / ring_bandwidth(group, cluster) + cluster.latency_s};
}

std::int64_t num_sparse(const Architecture& a, const Stage& stage) {
  return std::count(a.sparse.begin() + stage.first, a.sparse.begin() + stage.last, true);
}

Transfer counts_exchange(RankGroup group, const ClusterSpec& cluster) {
  return group.size > 1 ? Transfer{1, 0.0, cluster.latency_s} : Transfer{};
}

}  // namespace

Transfer& Transfer::operator+=(const Transfer& other) {
  collectives += other.collectives;
  bytes += other.bytes;
  seconds += other.seconds;
  return *this;
}

Transfer operator*(double times, Transfer transfer) {
  transfer.collectives =
      static_cast<std::int64_t>(times * static_cast<double>(transfer.collectives));
  transfer.bytes *= times;
  transfer.seconds *= times;
  return transfer;
}

Transfer all_gather(double bytes, RankGroup group, const ClusterSpec& cluster) {
  if (group.size == 1 || bytes == 0.0) return {};
  const double n = static_cast<double>(group.size);
  return ring((n - 1.0) / n * bytes, group, cluster);
}

Transfer all_reduce(double bytes, RankGroup group, const ClusterSpec& cluster) {
  if (group.size == 1 || bytes == 0.0) return {};
  const double n = static_cast<double>(group.size);
  return ring(2.0 * (n - 1.0) / n * bytes, group, cluster);
}

Transfer all_to_all(double bytes, RankGroup group, const ClusterSpec& cluster) {
  if (group.size == 1 || bytes == 0.0) return {};
  const double n = static_cast<double>(group.size);
  const double near = static_cast<double>(in_a_node(group, cluster));
  const double within = (near - 1.0) / n * bytes / cluster.intra_bandwidth;
  const double beyond = (n - near) / n * bytes / cluster.inter_bandwidth;
  return {.collectives = 1,
          .bytes = (n - 1.0) / n * bytes,
          .seconds = std::max(within, beyond) + cluster.latency_s};
}

Transfer send(double bytes, std::int64_t stride, const ClusterSpec& cluster) {
  const bool within = stride < cluster.gpus_per_node;
  const double bandwidth = within ? cluster.intra_bandwidth : cluster.inter_bandwidth;
  return {.collectives = 1, .bytes = bytes, .seconds = bytes / bandwidth + cluster.latency_s};
}

StageTraffic stage_traffic(const Architecture& a, const Share& share, const ClusterSpec& cluster,
                           const Workload& workload, const Layout& layout, const Stage& stage) {
  const RankGroup tensor{layout.tp, 1}, expert{layout.ep, layout.tp};
  const RankGroup data{layout.data_ranks(), layout.tp},
      expert_data{layout.dp, layout.tp * layout.ep};
  const RankGroup shard{layout.dp_shard, layout.tp};
  const RankGroup expert_shard{layout.expert_shard(), layout.tp * layout.ep};
  const double value = static_cast<double>(workload.value_bytes);
  const double activations =
      static_cast<double>(workload.micro_batch_tokens() * a.hidden_size) * value;
  const double layers = static_cast<double>(stage.last - stage.first);
  const double passes = workload.gradient_checkpointing ? 3.0 : 2.0;

  StageTraffic out;
  out.tensor =
      (2.0 * passes * layers + (stage.has_embedding ? 1.0 : 0.0) + (stage.has_head ? 1.0 : 0.0)) *
      all_reduce(activations, tensor, cluster);
  const double rows = activations * static_cast<double>(a.num_experts_per_tok) *
                      (layout.ep > 1 ? workload.expert_imbalance : 1.0);
  const double sparse = static_cast<double>(num_sparse(a, stage));
  out.expert = 2.0 * passes * sparse * all_to_all(rows, expert, cluster);
  out.expert += (passes - 1.0) * sparse * counts_exchange(expert, cluster);
  if (layout.pp > 1) {  // activations onward and their gradients back
    const auto stride = layout.num_ranks() / layout.pp;
    out.pipeline =
        (stage.has_embedding || stage.has_head ? 1.0 : 2.0) * send(activations, stride, cluster);
  }
  out.gather = all_gather(static_cast<double>(share.divided_weights()) * value, shard, cluster);
  out.gather +=
      all_gather(static_cast<double>(share.expert_weights) * value, expert_shard, cluster);
  // One gather a layer and kind, not one for the stage.
  const auto more = [&](double times) { return times * Transfer{1, 0.0, cluster.latency_s}; };
  if (layout.dp_shard > 1) out.gather += more(layers - 1.0);
  if (layout.expert_shard() > 1 && sparse > 1.0) out.gather += more(sparse - 1.0);

  out.tensor_gradients = all_reduce(
      static_cast<double>(share.adapter_whole_over_tp) * kGradientBytes, tensor, cluster);
  out.gradients = all_reduce(static_cast<double>(share.adapter) * kGradientBytes, data, cluster);
  out.expert_gradients =
      all_reduce(static_cast<double>(share.expert_adapter) * kGradientBytes, expert_data, cluster);
  return out;
}

}  // namespace tailor::trainer::plan
