#include "trainer/cli/cluster_plan.hpp"

#include <CLI/CLI.hpp>
#include <iostream>

#include "configs/reader.hpp"
#include "trainer/cli/cluster_report.hpp"
#include "trainer/cli/model_options.hpp"
#include "trainer/plan/units.hpp"

namespace tailor::trainer::cli {
namespace {

constexpr std::int64_t kMostGpus = 65536;

void require_between(const char* option, double value, double min, double max,
                     const std::string& expected) {
  require_option(value >= min && value <= max, option, expected, value);
}

double size(const char* option, const std::string& text) {
  const auto bytes = plan::parse_size(text);
  require_option(bytes.has_value(), option, "a size such as 80GB", text);
  return *bytes;
}

double bandwidth(const char* option, const std::string& text) {
  const auto rate = plan::parse_bandwidth(text);
  require_option(rate.has_value(), option, "a bandwidth such as 450GB/s or 400Gb/s", text);
  return *rate;
}

plan::AdapterSpec read_adapter(const ClusterPlanOptions& options) {
  using plan::ExpertLora;
  plan::AdapterSpec out;
  require_between("--r", static_cast<double>(options.r), 1, 65536, "1 to 65536");
  out.r = options.r;
  const auto& targets = options.target_modules;
  if (targets.size() != 1 || targets.front() != "all-linear") out.target_modules = targets;
  const auto& layout = options.expert_lora;
  require_option(layout == "per_expert" || layout == "shared_outer" || layout == "shared",
                 "--expert-lora", "per_expert, shared_outer or shared", layout);
  out.expert_lora = layout == "shared"         ? ExpertLora::Shared
                    : layout == "shared_outer" ? ExpertLora::SharedOuter
                                               : ExpertLora::PerExpert;
  require_option(options.moe_rank == "same" || options.moe_rank == "divide", "--moe-rank",
                 "same or divide", options.moe_rank);
  out.divide_expert_rank = options.moe_rank == "divide";
  return out;
}

plan::ClusterSpec read_cluster(const ClusterPlanOptions& options) {
  require_between("--gpus-per-node", static_cast<double>(options.gpus_per_node), 1, kMostGpus,
                  "1 to 65536");
  require_between("--gpu-tflops", options.gpu_tflops, 1e-3, 1e6, "0.001 to 1000000");
  require_between("--latency-us", options.latency_us, 0, 1e6, "0 to 1000000");
  return {.num_gpus = options.gpus,
          .gpus_per_node = options.gpus_per_node,
          .memory_bytes = size("--gpu-memory", options.gpu_memory),
          .flops = options.gpu_tflops * 1e12,
          .memory_bandwidth = bandwidth("--gpu-memory-bandwidth", options.gpu_memory_bandwidth),
          .intra_bandwidth = bandwidth("--intra-bandwidth", options.intra_bandwidth),
          .inter_bandwidth = bandwidth("--inter-bandwidth", options.inter_bandwidth),
          .latency_s = options.latency_us * 1e-6};
}

plan::Workload read_workload(const ClusterPlanOptions& options) {
  constexpr double kMost = 1e9;
  constexpr std::int64_t kRows = 64;  // of a step, where nothing is said
  require_between("--max-length", static_cast<double>(options.max_length), 1, kMost, "1 to 1e9");
  require_between("--micro-batch-rows", static_cast<double>(options.micro_batch_rows), 1, 1e6,
                  "1 to 1e6");
  require_between("--tokens-per-step", static_cast<double>(options.tokens_per_step), 0, 1e15,
                  "1 to 1e15");
  require_between("--expert-imbalance", options.expert_imbalance, 1, 1e4, "1 to 10000");
  require_option(options.dtype == "bfloat16" || options.dtype == "float32", "--dtype",
                 "bfloat16 or float32", options.dtype);
  return {.max_length = options.max_length,
          .micro_batch_rows = options.micro_batch_rows,
          .tokens_per_step =
              options.tokens_per_step > 0 ? options.tokens_per_step : kRows * options.max_length,
          .value_bytes = options.dtype == "float32" ? 4 : 2,
          .gradient_checkpointing = options.gradient_checkpointing,
          .expert_imbalance = options.expert_imbalance};
}

}  // namespace

void add_cluster_plan_options(CLI::App& command, ClusterPlanOptions& o) {
  auto* architecture =
      command.add_option("--architecture", o.architecture,
                         "plan a cluster from a model's config.json, or the folder that holds it");
  const auto group = [&](const char* name, const std::string& flag, auto& value,
                         const char* description) {
    auto* option = command.add_option(flag, value, description);
    option->group(name)->needs(architecture);
    return option;
  };
  constexpr auto kAdapter = "Adapter (with --architecture)";
  group(kAdapter, "--r", o.r, "LoRA rank; 16");
  group(kAdapter, "--target-modules", o.target_modules, "names with commas; all-linear")
      ->delimiter(',');
  group(kAdapter, "--expert-lora", o.expert_lora, "per_expert, shared_outer or shared");
  group(kAdapter, "--moe-rank", o.moe_rank, "rank of experts: same, or divide by experts a token");
  constexpr auto kCluster = "Cluster (with --architecture)";
  group(kCluster, "--gpus", o.gpus, "how many in all; without it only parameters are counted")
      ->check(CLI::Range(std::int64_t{1}, kMostGpus));
  group(kCluster, "--gpus-per-node", o.gpus_per_node, "8");
  group(kCluster, "--gpu-memory", o.gpu_memory, "80GB");
  group(kCluster, "--gpu-memory-bandwidth", o.gpu_memory_bandwidth, "3.35TB/s");
  group(kCluster, "--gpu-tflops", o.gpu_tflops, "reached in products, not the data sheet's; 400");
  group(kCluster, "--intra-bandwidth", o.intra_bandwidth,
        "of a GPU within its node, one direction; 450GB/s");
  group(kCluster, "--inter-bandwidth", o.inter_bandwidth,
        "a GPU's share of the network, one direction; 50GB/s");
  group(kCluster, "--latency-us", o.latency_us, "of one collective; 20");
  constexpr auto kWork = "Work (with --architecture)";
  group(kWork, "--max-length", o.max_length, "tokens of a row; 4096");
  group(kWork, "--micro-batch-rows", o.micro_batch_rows, "rows of one forward on a rank; 1");
  group(kWork, "--tokens-per-step", o.tokens_per_step, "of all ranks; 64 rows");
  group(kWork, "--dtype", o.dtype, "of weights and activations: bfloat16 or float32");
  command
      .add_flag("--gradient-checkpointing", o.gradient_checkpointing,
                "as if layers kept only their input and were computed again")
      ->group(kWork)
      ->needs(architecture);
  group(kWork, "--expert-imbalance", o.expert_imbalance,
        "rows of the busiest expert rank over the mean; 1");
  group(kWork, "--layout", o.layout, "this one, as in tp=2,ep=8,pp=1,dp_shard=8; dp is the rest");
  group(kWork, "--top", o.top, "how many layouts the search shows; 5");
}

ClusterPlanRequest read_request(const ClusterPlanOptions& options) {
  ClusterPlanRequest out;
  out.architecture = plan::read_architecture(options.architecture);
  out.adapter = read_adapter(options);
  plan::check(out.architecture, out.adapter);
  out.counts_only = options.gpus == 0;
  out.cluster = read_cluster(options);
  out.workload = read_workload(options);
  out.layout = options.layout;
  if (out.counts_only && !out.layout.empty())
    throw configs::ConfigError("--layout: needs --gpus, the number of GPUs in all");
  require_between("--top", static_cast<double>(options.top), 1, 1000, "1 to 1000");
  out.top = static_cast<std::size_t>(options.top);
  return out;
}

int plan_cluster(const ClusterPlanOptions& options, bool json) {
  const auto request = read_request(options);
  const auto& [model, adapter, cluster, workload, text, counts_only, top] = request;
  ClusterPlan found;
  if (!text.empty()) {
    const auto layout = plan::parse_layout(text, cluster.num_gpus);
    if (const auto problem = plan::objection(model, cluster, workload, layout))
      throw configs::ConfigError("--layout: " + *problem);
    found.one = plan::cost(model, adapter, cluster, workload, layout);
  } else if (!counts_only) {
    found.proposals = plan::propose(model, adapter, cluster, workload, top);
  }
  if (found.proposals && found.proposals->best.empty()) {
    found.enough_gpus = plan::enough_gpus(model, adapter, cluster, workload);
    auto lean = workload;
    lean.gradient_checkpointing = true;
    const auto best = plan::propose(model, adapter, cluster, lean, 1).best;
    if (!best.empty()) found.with_checkpointing = best.front();
    found.enough_with_checkpointing = plan::enough_gpus(model, adapter, cluster, lean);
  }
  std::cout << (json ? json_report(request, found) : text_report(request, found)) << std::flush;
  return 0;
}

}  // namespace tailor::trainer::cli
