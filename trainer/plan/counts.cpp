#include "trainer/plan/counts.hpp"

#include <algorithm>

#include "configs/reader.hpp"

namespace tailor::trainer::plan {
namespace {

constexpr const char* kHead = "lm_head";

void add_attention(const Architecture& a, std::vector<Projection>& out) {
  const auto h = a.hidden_size, heads = a.num_attention_heads;
  const auto add = [&out](const char* name, std::int64_t in, std::int64_t width, Split split,
                          bool bias = false) {
    out.push_back({name, in, width, Part::Attention, split, bias});
  };
  if (!a.latent_attention()) {
    const auto queries = heads * a.head_dim, keys = a.num_key_value_heads * a.head_dim;
    add("q_proj", h, queries, Split::Column, a.qkv_bias);
    add("k_proj", h, keys, Split::Column, a.qkv_bias);
    add("v_proj", h, keys, Split::Column, a.qkv_bias);
    add("o_proj", queries, h, Split::Row, a.output_bias);
    return;
  }
  const auto queries = heads * a.query_key_dim();
  if (a.q_lora_rank > 0) {
    add("q_a_proj", h, a.q_lora_rank, Split::None);
    add("q_b_proj", a.q_lora_rank, queries, Split::Column);
  } else {
    add("q_proj", h, queries, Split::Column);
  }
  add("kv_a_proj_with_mqa", h, a.kv_lora_rank + a.qk_rope_head_dim, Split::None);
  add("kv_b_proj", a.kv_lora_rank, heads * (a.qk_nope_head_dim + a.v_head_dim), Split::Column);
  add("o_proj", heads * a.v_head_dim, h, Split::Row);
}

struct Mlp {
  Part part;
  std::int64_t width;
  std::int64_t copies = 1, active = 1;
  bool bias = false;
};

void add_mlp(const Architecture& a, const Mlp& mlp, std::vector<Projection>& out) {
  const auto h = a.hidden_size;
  const bool numbered = a.model_type == "mixtral";  // w1 is the gate, w3 goes up, w2 down
  const auto add = [&](const char* name, std::int64_t in, std::int64_t width, Split split) {
    out.push_back({name, in, width, mlp.part, split, mlp.bias, mlp.copies, mlp.active});
  };
  add(numbered ? "w1" : "gate_proj", h, mlp.width, Split::Column);
  add(numbered ? "w3" : "up_proj", h, mlp.width, Split::Column);
  add(numbered ? "w2" : "down_proj", mlp.width, h, Split::Row);
}

bool is_target(const std::string& name, const AdapterSpec& adapter) {
  const auto& targets = adapter.target_modules;
  if (targets.empty()) return name != kHead;
  return std::find(targets.begin(), targets.end(), name) != targets.end();
}

bool is_sparse(const Architecture& a, std::int64_t layer) {
  return a.sparse[static_cast<std::size_t>(layer)];
}

}  // namespace

std::string word(ExpertLora layout) {
  switch (layout) {
    case ExpertLora::PerExpert:
      return "per_expert";
    case ExpertLora::SharedOuter:
      return "shared_outer";
    case ExpertLora::Shared:
      break;
  }
  return "shared";
}

std::vector<Projection> projections(const Architecture& a, std::int64_t layer) {
  std::vector<Projection> out;
  add_attention(a, out);
  if (!is_sparse(a, layer)) {
    add_mlp(a, {.part = Part::DenseMlp, .width = a.intermediate_size, .bias = a.mlp_bias}, out);
    return out;
  }
  if (a.shared_expert_width > 0)
    add_mlp(a, {.part = Part::SharedExperts, .width = a.shared_expert_width}, out);
  add_mlp(a,
          {.part = Part::RoutedExperts,
           .width = a.moe_intermediate_size,
           .copies = a.num_experts,
           .active = a.num_experts_per_tok},
          out);
  return out;
}

LayerExtras layer_extras(const Architecture& a, std::int64_t layer) {
  using QkNorm = Architecture::QkNorm;
  LayerExtras out;
  out.norms = 2 * a.hidden_size;
  if (a.qk_norm == QkNorm::PerHead) out.norms += 2 * a.head_dim;
  if (a.qk_norm == QkNorm::Whole)
    out.norms += (a.num_attention_heads + a.num_key_value_heads) * a.head_dim;
  out.norms += a.q_lora_rank + a.kv_lora_rank;  // one norm each, where they are
  if (is_sparse(a, layer)) {
    out.router = a.num_experts * a.hidden_size + (a.router_bias ? a.num_experts : 0);
    out.shared_gate = a.shared_expert_gate ? a.hidden_size : 0;
  }
  return out;
}

std::int64_t ArchitectureCounts::total() const {
  return embedding + head + attention + dense_mlp + shared_experts + routed_experts + routers +
         norms;
}

std::int64_t ArchitectureCounts::active() const { return total() - idle_experts; }

std::int64_t ArchitectureCounts::active_without_embedding() const {
  return active() - (head > 0 ? embedding : 0);
}

ArchitectureCounts count(const Architecture& a) {
  ArchitectureCounts out;
  out.embedding = a.vocab_size * a.hidden_size;
  out.head = a.tie_word_embeddings ? 0 : out.embedding;
  out.norms = a.hidden_size;  // the last one
  for (std::int64_t layer = 0; layer < a.num_hidden_layers; ++layer) {
    for (const auto& p : projections(a, layer)) {
      const auto one = p.in * p.out + (p.bias ? p.out : 0);
      switch (p.part) {
        case Part::Attention:
          out.attention += one;
          break;
        case Part::DenseMlp:
          out.dense_mlp += one;
          break;
        case Part::SharedExperts:
          out.shared_experts += one;
          break;
        case Part::RoutedExperts:
          out.routed_experts += one * p.copies;
          out.idle_experts += one * (p.copies - p.active);
      }
    }
    const auto extras = layer_extras(a, layer);
    out.norms += extras.norms;
    out.routers += extras.router + extras.shared_gate;
  }
  return out;
}

Factors factors(const Projection& p, const Architecture& a, const AdapterSpec& adapter) {
  if (!is_target(p.name, adapter)) return {};
  if (p.part != Part::RoutedExperts) return {.rank = adapter.r, .a = 1, .b = 1};
  Factors out{.rank = adapter.divide_expert_rank ? adapter.r / a.num_experts_per_tok : adapter.r,
              .a = p.copies,
              .b = p.copies};
  const bool down = p.split == Split::Row;
  const bool outer = adapter.expert_lora == ExpertLora::SharedOuter;
  if (adapter.expert_lora == ExpertLora::Shared || (outer && !down)) out.a = 1;
  if (adapter.expert_lora == ExpertLora::Shared || (outer && down)) out.b = 1;
  return out;
}

std::int64_t AdapterCounts::total() const {
  return attention + dense_mlp + shared_experts + routed_experts + head;
}

AdapterCounts count(const Architecture& a, const AdapterSpec& adapter) {
  AdapterCounts out;
  for (std::int64_t layer = 0; layer < a.num_hidden_layers; ++layer) {
    for (const auto& p : projections(a, layer)) {
      const auto f = factors(p, a, adapter);
      auto& part = p.part == Part::Attention       ? out.attention
                   : p.part == Part::DenseMlp      ? out.dense_mlp
                   : p.part == Part::SharedExperts ? out.shared_experts
                                                   : out.routed_experts;
      part += f.values(p);
      out.tensors += f.a + f.b;
    }
  }
  if (is_target(kHead, adapter)) {
    out.head = adapter.r * (a.hidden_size + a.vocab_size);
    out.tensors += 2;
  }
  return out;
}

void check(const Architecture& a, const AdapterSpec& adapter) {
  std::vector<std::string> known;
  for (std::int64_t layer = 0; layer < a.num_hidden_layers; ++layer) {
    for (const auto& p : projections(a, layer))
      if (std::find(known.begin(), known.end(), p.name) == known.end()) known.push_back(p.name);
  }
  known.emplace_back(kHead);
  const auto missing = std::find_if_not(
      adapter.target_modules.begin(), adapter.target_modules.end(), [&](const std::string& target) {
        return std::find(known.begin(), known.end(), target) != known.end();
      });
  if (missing != adapter.target_modules.end()) {
    std::string all;
    for (const auto& name : known) all.append(all.empty() ? "" : ", ").append(name);
    throw configs::ConfigError("--target-modules: " + a.model_type + " has no \"" + *missing +
                               "\"; it has " + all);
  }
  if (adapter.divide_expert_rank && a.num_experts > 0 && adapter.r % a.num_experts_per_tok != 0) {
    throw configs::ConfigError(
        "--moe-rank divide: r = " + std::to_string(adapter.r) +
        " is no multiple of num_experts_per_tok = " + std::to_string(a.num_experts_per_tok));
  }
}

}  // namespace tailor::trainer::plan
