#pragma once

#include <cstdint>

#include "trainer/plan/counts.hpp"
#include "trainer/plan/layout.hpp"

namespace tailor::trainer::plan {

/// What one rank holds of a decoder layer, or of embedding or head, and does for it. Numbers of
/// values, not bytes; before the base is divided over dp_shard.
struct Share {
  std::int64_t dense_weights = 0, expert_weights = 0;
  // Of dense_weights: what is no matrix of a layer's linear parts, which alone dp_shard divides.
  std::int64_t whole_weights = 0;
  // Adapter values by the ranks that sum their gradients: dp * ep, or dp (factors of experts that
  // live on this rank alone among ep). Some of them are whole on every tp rank.
  std::int64_t adapter = 0, expert_adapter = 0, adapter_whole_over_tp = 0;
  std::int64_t num_adapter_tensors = 0;
  // Mean over experts; the busiest expert rank does more by its imbalance.
  double saved_values = 0.0;                         // that backward needs of a token
  double forward_flops = 0.0, backward_flops = 0.0;  // of a token
  double forward_s = 0.0, backward_s = 0.0;          // of a micro-batch

  Share& operator+=(const Share& other);
  std::int64_t weights() const { return dense_weights + expert_weights; }
  std::int64_t divided_weights() const { return dense_weights - whole_weights; }  // over dp_shard
  std::int64_t adapter_values() const { return adapter + expert_adapter; }
};

/// Base products take 2 in out FLOP a token forward and again backward (no weight gradient), LoRA
/// 2 r (in + out) and 4 r (in + out), attention over rows of T tokens 2 n (d_qk + d_v) T / 2 a head
/// and 2.5 times that backward, where scores are computed again (FlashAttention-2,
/// arXiv:2307.08691, 3.1). A product takes as long as its FLOP or as moving its operands and result
/// through memory, whichever is longer (roofline, Williams et al. 2009): few rows an expert, or a
/// narrow part of one, cost what reading the weights costs. LoRA moves its input and its output.
/// Of a layer backward needs: the residual stream before each norm, each norm's output (input of
/// LoRA's A), q, k and v (before and after a norm on heads), the output of attention; of an MLP
/// gate, up and their product; of routed experts also the rows as sent to the experts and as they
/// come back.
Share layer_share(const Architecture& architecture, const AdapterSpec& adapter,
                  const ClusterSpec& cluster, const Workload& workload, const Layout& layout,
                  std::int64_t layer);
Share embedding_share(const Architecture& architecture, const Layout& layout);
/// Last norm and head. A tied head on a stage without the embedding is a second copy of it.
Share head_share(const Architecture& architecture, const AdapterSpec& adapter,
                 const ClusterSpec& cluster, const Workload& workload, const Layout& layout);

}  // namespace tailor::trainer::plan
