#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/plan/layout.hpp"
#include "trainer/plan/share.hpp"

namespace tailor::trainer::plan {

/// Ranks of a collective: `size` of them, `stride` apart.
struct RankGroup {
  std::int64_t size = 1, stride = 1;
};

/// Bytes that a rank sends, and the time that takes. A collective of one rank is nothing.
struct Transfer {
  std::int64_t collectives = 0;
  double bytes = 0.0, seconds = 0.0;

  Transfer& operator+=(const Transfer& other);
};
Transfer operator*(double times, Transfer transfer);

/// Ring algorithms over n ranks (Patarasuk and Yuan 2009): an all-reduce of B bytes sends
/// 2 (n - 1) / n B from each rank, an all-gather whose result has B bytes (n - 1) / n B. Where g of
/// the n ranks share a node, g rings use the network shares of all g: the slowest link gives
/// min(intra, g inter) to a rank; within one node intra.
Transfer all_reduce(double bytes, RankGroup group, const ClusterSpec& cluster);
Transfer all_gather(double bytes, RankGroup group, const ClusterSpec& cluster);
/// Each rank keeps 1 / n of its B bytes and sends the others' parts at once: (g - 1) / n B within
/// the node and (n - g) / n B over the network, the longer of both counts.
Transfer all_to_all(double bytes, RankGroup group, const ClusterSpec& cluster);
/// To the rank `stride` further.
Transfer send(double bytes, std::int64_t stride, const ClusterSpec& cluster);

/// Communication of a stage. Volumes of tensor parallelism as in Megatron-LM (Narayanan et al.
/// 2021, arXiv:2104.04473, 3.2): two all-reduces of the activations a layer forward and two
/// backward; one for the embedding, one for the head's input gradient. LoRA adds none: partial
/// products ride on the base's. Expert parallelism: two all-to-alls of k rows a token forward and
/// two backward, each tp rank its own; the counts beforehand are too few bytes to matter and are
/// counted as a collective. What is divided of the frozen base is gathered forward and again
/// backward.
/// Under checkpointing the forward collectives of tp and ep run twice, gathering does not (it
/// serves the second forward and backward).
struct StageTraffic {
  Transfer tensor, expert, pipeline;  // of a micro-batch
  Transfer gather;                    // of a micro-batch and pass: there are two of them
  Transfer tensor_gradients, gradients, expert_gradients;  // of a step, in float32
};
StageTraffic stage_traffic(const Architecture& architecture, const Share& share,
                           const ClusterSpec& cluster, const Workload& workload,
                           const Layout& layout, const Stage& stage);

}  // namespace tailor::trainer::plan
