// The cluster plan for people.
#include "trainer/cli/cluster_report.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>
#include <vector>

#include "trainer/cli/job_summary.hpp"
#include "trainer/plan/units.hpp"

namespace tailor::trainer::cli {
namespace {

using plan::seconds_text;
using plan::share_text;
using plan::size_text;

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::string space(text.size() < width ? width - text.size() : 0, ' ');
  return right ? space + text : text + space;
}

/// Columns as wide as their longest cell: the first to the left, the others to the right.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += "  " + padded(row[i], widths[i], i > 0);
    out += line + '\n';
  }
  return out;
}

using Counts = std::vector<std::pair<const char*, std::int64_t>>;

std::string counts_table(const Counts& counts) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, number] : counts)
    if (number > 0) rows.push_back({name, with_commas(number)});
  return table(rows);
}

std::string model_text(const ClusterPlanRequest& request) {
  const auto& a = request.architecture;
  const auto counts = plan::count(a);
  std::string out = "model: " + a.name + " (" + a.model_type + "), " +
                    std::to_string(a.num_hidden_layers) + " layers, hidden " +
                    std::to_string(a.hidden_size);
  if (a.num_experts > 0) {
    out += ", " + std::to_string(a.num_experts) + " experts, " +
           std::to_string(a.num_experts_per_tok) + " a token";
  }
  out += "\n" + counts_table({{"parameters", counts.total()},
                              {"active per token", counts.active()},
                              {"  without input embedding", counts.active_without_embedding()},
                              {"embedding", counts.embedding},
                              {"head", counts.head},
                              {"attention", counts.attention},
                              {"dense MLP", counts.dense_mlp},
                              {"shared experts", counts.shared_experts},
                              {"routed experts", counts.routed_experts},
                              {"routers", counts.routers},
                              {"norms", counts.norms}});
  if (!a.published.empty()) out += "  its authors say: " + a.published + "\n";
  return out;
}

std::string adapter_text(const ClusterPlanRequest& request) {
  const auto& spec = request.adapter;
  const auto counts = plan::count(request.architecture, spec);
  std::string targets;
  for (const auto& name : spec.target_modules) targets += (targets.empty() ? "" : ", ") + name;
  std::string out = "adapter: LoRA r = " + std::to_string(spec.r) + " on " +
                    (targets.empty() ? "all-linear" : targets);
  if (counts.routed_experts > 0) {
    out += std::string(", experts ") + plan::word(spec.expert_lora) +
           (spec.divide_expert_rank
                ? " with r = " + std::to_string(spec.r / request.architecture.num_experts_per_tok)
                : "");
  }
  return out + "; " + with_commas(counts.total()) + " parameters in " +
         with_commas(counts.tensors) + " tensors\n" +
         counts_table({{"attention", counts.attention},
                       {"dense MLP", counts.dense_mlp},
                       {"shared experts", counts.shared_experts},
                       {"routed experts", counts.routed_experts},
                       {"head", counts.head}});
}

std::string cluster_text(const ClusterPlanRequest& request) {
  const auto& c = request.cluster;
  const auto& w = request.workload;
  std::array<char, 32> tflops{};
  std::snprintf(tflops.data(), tflops.size(), "%.4g", c.flops / 1e12);
  return "cluster: " + std::to_string(c.num_gpus) + " GPUs, " + std::to_string(c.gpus_per_node) +
         " a node, of " + size_text(c.memory_bytes) + " and " + tflops.data() + " TFLOP/s; " +
         size_text(c.intra_bandwidth) + "/s in a node, " + size_text(c.inter_bandwidth) +
         "/s between\nwork: " + with_commas(w.tokens_per_step) + " tokens a step, rows of " +
         with_commas(w.max_length) + ", " + std::to_string(w.micro_batch_rows) +
         (w.micro_batch_rows == 1 ? " row" : " rows") + " at a time, " +
         (w.value_bytes == 4 ? "float32" : "bfloat16") +
         (w.gradient_checkpointing ? ", gradient checkpointing" : "") + "\n";
}

std::vector<std::string> layout_row(const plan::LayoutCost& cost) {
  const auto& l = cost.layout;
  return {std::to_string(l.tp),
          std::to_string(l.ep),
          std::to_string(l.pp),
          std::to_string(l.dp),
          std::to_string(l.dp_shard),
          size_text(cost.memory().total()),
          seconds_text(cost.step_s),
          with_commas(static_cast<std::int64_t>(cost.tokens_per_second)),
          share_text(cost.compute_s / cost.step_s),
          share_text(cost.bubble)};
}

std::string layouts_table(const std::vector<plan::LayoutCost>& costs) {
  std::vector<std::vector<std::string>> rows = {{"", "tp", "ep", "pp", "dp", "dp_shard", "memory",
                                                 "step", "tokens/s", "computing", "bubble"}};
  for (const auto& cost : costs) {
    auto row = layout_row(cost);
    row.insert(row.begin(), std::to_string(rows.size()));
    rows.push_back(row);
  }
  return table(rows);
}

std::string stage_name(const plan::LayoutCost& cost, std::size_t index) {
  if (cost.stages.size() == 1) return "";
  const auto& stage = cost.stages[index].stage;
  return ", stage " + std::to_string(index) + " (layers " + std::to_string(stage.first) + " to " +
         std::to_string(stage.last - 1) + ")";
}

std::string details(const plan::LayoutCost& cost, const plan::ClusterSpec& cluster) {
  const auto& full = cost.stages[cost.fullest];
  const auto& m = full.memory;
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, bytes] : {std::pair{"base weights", m.weights},
                                    {"gathered layers", m.gathered},
                                    {"adapter, gradients, moments", m.adapter},
                                    {"activations", m.activations},
                                    {"logits", m.logits},
                                    {"reserve", m.reserve}})
    if (bytes > 0.0) rows.push_back({name, size_text(bytes)});
  std::string out =
      "memory of a rank" + stage_name(cost, cost.fullest) + ": " + size_text(m.total()) + " of " +
      size_text(cluster.memory_bytes) + (m.total() > cluster.memory_bytes ? ", does not fit" : "") +
      "; " + with_commas(full.share.adapter_values()) + " trained parameters\n" + table(rows);
  rows = {{"axis", "sent", "collectives", "time"}};
  for (const auto& row : cost.traffic()) {
    rows.push_back({row.axis + ": " + row.what, size_text(row.transfer.bytes),
                    with_commas(row.transfer.collectives),
                    seconds_text(row.transfer.seconds) + (row.hidden ? " (overlapped)" : "")});
  }
  if (rows.size() > 1)
    out += "communication of a rank and step" + stage_name(cost, cost.slowest) + "\n" + table(rows);
  const auto& slow = cost.stages[cost.slowest];
  return out + "step: " + seconds_text(cost.step_s) + "; " +
         std::to_string(cost.num_micro_batches) +
         (cost.num_micro_batches == 1 ? " micro-batch" : " micro-batches") + " of " +
         seconds_text(slow.compute_s) + " computing and " + seconds_text(slow.communication_s) +
         " waiting for communication, " + share_text(cost.bubble) + " bubble, " +
         seconds_text(cost.gradients_s) + " for gradients\n";
}

std::string refusals(const plan::Proposals& proposals, double memory_bytes) {
  constexpr std::size_t kMostLines = 8;
  std::string out;
  for (std::size_t i = 0; i < proposals.refused.size(); ++i) {
    const auto& refusal = proposals.refused[i];
    if (i == kMostLines) {
      const auto more = proposals.refused.size() - i;
      out += "         and " + std::to_string(more) + " more reasons; --json lists all\n";
      break;
    }
    out += "  " + padded(std::to_string(refusal.num_layouts), 5, true) + "  " + refusal.reason;
    if (refusal.nearest) {
      out += "; nearest is " + refusal.nearest->text() + ", " +
             size_text(refusal.bytes - memory_bytes) + " too much";
    }
    out += '\n';
  }
  return out;
}

std::string search_text(const ClusterPlanRequest& request, const ClusterPlan& plan) {
  const auto& found = *plan.proposals;
  std::string out = "layouts: " + std::to_string(found.num_fitting) + " of " +
                    std::to_string(found.num_tried) + " fit";
  if (!found.best.empty()) {
    out += ", the fastest\n" + layouts_table(found.best) + "the first of them\n" +
           details(found.best.front(), request.cluster);
  } else {
    out += '\n';
    if (plan.enough_gpus) out += "  " + std::to_string(*plan.enough_gpus) + " such GPUs would do\n";
    if (plan.enough_with_checkpointing && !plan.with_checkpointing &&
        !request.workload.gradient_checkpointing) {
      out += "  " + std::to_string(*plan.enough_with_checkpointing) +
             " such GPUs would do with --gradient-checkpointing\n";
    }
    if (plan.with_checkpointing) {
      out += "  with --gradient-checkpointing one fits: " + plan.with_checkpointing->layout.text() +
             ", " + size_text(plan.with_checkpointing->memory().total()) + ", " +
             seconds_text(plan.with_checkpointing->step_s) + " a step\n";
    }
  }
  if (!found.refused.empty())
    out += "why the others are out\n" + refusals(found, request.cluster.memory_bytes);
  return out;
}

}  // namespace

std::string text_report(const ClusterPlanRequest& request, const ClusterPlan& plan) {
  auto out = model_text(request) + adapter_text(request);
  if (request.counts_only) return out;
  out += cluster_text(request);
  if (plan.one)
    out += "layout: " + plan.one->layout.text() + "\n" + details(*plan.one, request.cluster);
  if (plan.proposals) out += search_text(request, plan);
  return out;
}

}  // namespace tailor::trainer::cli
