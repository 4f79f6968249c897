#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/plan/counts.hpp"
#include "trainer/plan/layout.hpp"

namespace CLI {
class App;
}

namespace tailor::trainer::cli {

/// `tailor plan --architecture`: what a model costs on a cluster, from its config.json alone. As
/// typed.
struct ClusterPlanOptions {
  std::string architecture;
  std::int64_t r = 16;
  std::vector<std::string> target_modules;
  std::string expert_lora = "per_expert", moe_rank = "same";
  std::int64_t gpus = 0, gpus_per_node = 8;  // 0 GPUs: counts only
  std::string gpu_memory = "80GB", gpu_memory_bandwidth = "3.35TB/s";
  std::string intra_bandwidth = "450GB/s", inter_bandwidth = "50GB/s";
  double gpu_tflops = 400.0, latency_us = 20.0;
  std::int64_t max_length = 4096, micro_batch_rows = 1, tokens_per_step = 0;  // 0: 64 rows
  std::string dtype = "bfloat16";
  bool gradient_checkpointing = false;
  double expert_imbalance = 1.0;
  std::string layout;  // empty: search
  std::int64_t top = 5;
};

/// Everything that a cluster plan asks for, checked.
struct ClusterPlanRequest {
  plan::Architecture architecture;
  plan::AdapterSpec adapter;
  plan::ClusterSpec cluster;
  plan::Workload workload;
  std::string layout;
  bool counts_only = false;
  std::size_t top = 5;
};

/// Adds the options; all need --architecture. `options` outlives the parsing.
void add_cluster_plan_options(CLI::App& command, ClusterPlanOptions& options);

/// Throws ConfigError "--option: expected ..., found ...".
ClusterPlanRequest read_request(const ClusterPlanOptions& options);

/// Prints the plan as a table or as JSON; the exit code.
int plan_cluster(const ClusterPlanOptions& options, bool json);

}  // namespace tailor::trainer::cli
