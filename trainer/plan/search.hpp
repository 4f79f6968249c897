#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/plan/cost.hpp"

namespace tailor::trainer::plan {

/// Layouts that cannot be, by reason.
struct Refusal {
  std::string reason;
  std::int64_t num_layouts = 0;
  // Where memory is the reason: the layout that comes nearest, and what it needs.
  std::optional<Layout> nearest;
  double bytes = 0.0;
};

struct Proposals {
  std::vector<LayoutCost> best;  // the fastest first; of those that differ in dp_shard alone, one
  std::vector<Refusal> refused;  // the commonest first
  std::int64_t num_tried = 0, num_fitting = 0;
};

/// Tries every way to write num_gpus as tp * ep * pp * dp, with every dp_shard.
Proposals propose(const Architecture& architecture, const AdapterSpec& adapter,
                  const ClusterSpec& cluster, const Workload& workload, std::size_t max_best);

/// The least number of GPUs, doubling from those of `cluster` and at most 4096, that a layout fits
/// on; nothing where none does. The tokens of a step grow along.
std::optional<std::int64_t> enough_gpus(const Architecture& architecture,
                                        const AdapterSpec& adapter, const ClusterSpec& cluster,
                                        const Workload& workload);

}  // namespace tailor::trainer::plan
