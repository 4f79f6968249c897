#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trainer/cli/cluster_plan.hpp"
#include "trainer/plan/search.hpp"

namespace tailor::trainer::cli {

/// What a cluster plan found: a layout that was asked for, or the search's; neither without GPUs.
struct ClusterPlan {
  std::optional<plan::LayoutCost> one;
  std::optional<plan::Proposals> proposals;
  // Where the search found none: how many GPUs would do, without and with checkpointing, and the
  // best layout with checkpointing on these.
  std::optional<std::int64_t> enough_gpus, enough_with_checkpointing;
  std::optional<plan::LayoutCost> with_checkpointing;
};

std::string text_report(const ClusterPlanRequest& request, const ClusterPlan& plan);
/// One object: architecture, parameters, adapter, cluster, workload, layouts (best first), refused.
std::string json_report(const ClusterPlanRequest& request, const ClusterPlan& plan);

}  // namespace tailor::trainer::cli
