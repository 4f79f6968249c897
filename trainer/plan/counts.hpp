#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/plan/architecture.hpp"

namespace tailor::trainer::plan {

enum class Part { Attention, DenseMlp, SharedExperts, RoutedExperts };
enum class Split { None, Column, Row };  // how tensor parallelism cuts the weight (out, in)

/// A linear layer of a decoder layer; of the routed experts one stands for all.
struct Projection {
  std::string name;  // the last word of its path
  std::int64_t in = 0, out = 0;
  Part part = Part::Attention;
  Split split = Split::None;
  bool bias = false;
  std::int64_t copies = 1;  // experts that have it
  std::int64_t active = 1;  // of them, those that one token passes through
};
std::vector<Projection> projections(const Architecture& architecture, std::int64_t layer);

/// What a decoder layer holds besides projections; none of it is cut by tensor parallelism.
struct LayerExtras {
  std::int64_t norms = 0, router = 0;  // the router with its bias
  std::int64_t shared_gate = 0;        // the shared expert's: a matrix of one row
};
LayerExtras layer_extras(const Architecture& architecture, std::int64_t layer);

/// Parameters of the base, norms and router biases included, heads for multi-token prediction not.
struct ArchitectureCounts {
  std::int64_t embedding = 0, head = 0;  // head: 0 where tied
  std::int64_t attention = 0, dense_mlp = 0, shared_experts = 0, routed_experts = 0;
  std::int64_t routers = 0, norms = 0;
  std::int64_t idle_experts = 0;  // routed experts that a token does not pass through

  std::int64_t total() const;
  std::int64_t active() const;                    // of one token, input embedding included
  std::int64_t active_without_embedding() const;  // a tied embedding stays, as the head
};
ArchitectureCounts count(const Architecture& architecture);

/// LoRA on routed experts: factors of their own; one pair for the layer; or one A of gate and up
/// and one B of down for the layer, the other factors by expert ("LoRA Without Regret", Thinking
/// Machines Lab 2025, and its tinker-cookbook).
enum class ExpertLora { PerExpert, SharedOuter, Shared };
std::string word(ExpertLora layout);  // "per_expert"

struct AdapterSpec {
  std::int64_t r = 16;
  std::vector<std::string> target_modules;  // names of projections, lm_head; empty: all-linear
  ExpertLora expert_lora = ExpertLora::PerExpert;
  bool divide_expert_rank = false;  // routed experts get r / num_experts_per_tok
};

/// Factors A (rank, in) and B (out, rank) of a projection: how many the layer has.
struct Factors {
  std::int64_t rank = 0, a = 0, b = 0;
  std::int64_t values(const Projection& p) const { return rank * (a * p.in + b * p.out); }
};
Factors factors(const Projection& projection, const Architecture& architecture,
                const AdapterSpec& adapter);

struct AdapterCounts {
  std::int64_t attention = 0, dense_mlp = 0, shared_experts = 0, routed_experts = 0, head = 0;
  std::int64_t tensors = 0;
  std::int64_t total() const;
};
AdapterCounts count(const Architecture& architecture, const AdapterSpec& adapter);

/// Throws configs::ConfigError where a target names nothing in the model, or where the rank of the
/// experts does not come out whole.
void check(const Architecture& architecture, const AdapterSpec& adapter);

}  // namespace tailor::trainer::plan
