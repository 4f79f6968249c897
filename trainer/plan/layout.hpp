#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trainer/plan/architecture.hpp"

namespace tailor::trainer::plan {

/// GPUs in nodes. Bandwidths are those of one GPU in one direction; `inter_bandwidth` is its share
/// of the node's network.
struct ClusterSpec {
  std::int64_t num_gpus = 1, gpus_per_node = 8;
  double memory_bytes = 80e9;
  double flops = 400e12;  // a second, as products of this size reach them, not the data sheet's
  double memory_bandwidth = 3.35e12;                       // bytes a second
  double intra_bandwidth = 450e9, inter_bandwidth = 50e9;  // bytes a second
  double latency_s = 20e-6;                                // of one collective
};

/// What one optimizer step works on, and how.
struct Workload {
  std::int64_t max_length = 4096;            // tokens of a row
  std::int64_t micro_batch_rows = 1;         // rows of a forward on one rank
  std::int64_t tokens_per_step = 64 * 4096;  // of all ranks, all supervised
  std::int64_t value_bytes = 2;              // of a weight and of an activation
  bool gradient_checkpointing = false;       // layers keep their input and are computed once more
  double expert_imbalance = 1.0;             // rows of the busiest expert rank over the mean

  std::int64_t micro_batch_tokens() const { return micro_batch_rows * max_length; }
};

/// The mesh: rank = ((pp_index * dp + dp_index) * ep + ep_index) * tp + tp_index. The dp * ep ranks
/// of a stage have different data; tp ranks share theirs. Matrices of the frozen layers are divided
/// over consecutive ranks of dp * ep: dense ones over dp_shard of them, those of an expert, which
/// lives on dp ranks, over dp_shard / ep where that is more than one. Embedding, head, norms,
/// routers and biases stay whole.
struct Layout {
  std::int64_t tp = 1, ep = 1, pp = 1, dp = 1, dp_shard = 1;

  std::int64_t data_ranks() const { return dp * ep; }
  std::int64_t num_ranks() const { return pp * dp * ep * tp; }
  std::int64_t expert_shard() const { return dp_shard > ep ? dp_shard / ep : 1; }
  std::string text() const;  // "tp=2 ep=8 pp=1 dp=1 dp_shard=8"
  bool operator==(const Layout&) const = default;
};

/// "tp=2,ep=8,pp=1,dp_shard=8", in any order, each axis 1 where absent; dp is what remains of
/// `num_gpus`, or is given and must agree. Throws configs::ConfigError.
Layout parse_layout(const std::string& text, std::int64_t num_gpus);

/// Why the model, the cluster or the batch cannot be cut so, memory aside; nothing where it can.
std::optional<std::string> objection(const Architecture& architecture, const ClusterSpec& cluster,
                                     const Workload& workload, const Layout& layout);

/// Layers [first, last) of a pipeline stage: as even as whole layers allow, later stages the larger
/// ones where it does not come out even. The embedding is on the first, norm and head on the last.
struct Stage {
  std::int64_t first = 0, last = 0;
  bool has_embedding = false, has_head = false;
};
Stage stage(const Architecture& architecture, const Layout& layout, std::int64_t index);

}  // namespace tailor::trainer::plan
