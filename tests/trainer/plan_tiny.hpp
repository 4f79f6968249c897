#pragma once

#include "trainer/plan/architecture.hpp"

namespace tailor::trainer::plan {

/// Eight equal sparse layers, small numbers that no two sizes share, untied head.
inline Architecture tiny_moe() {
  return {.name = "tiny",
          .model_type = "qwen3_moe",
          .hidden_size = 64,
          .num_hidden_layers = 8,
          .vocab_size = 128,
          .num_attention_heads = 8,
          .num_key_value_heads = 4,
          .head_dim = 16,
          .qk_norm = Architecture::QkNorm::PerHead,
          .num_experts = 16,
          .num_experts_per_tok = 2,
          .moe_intermediate_size = 48,
          .sparse = std::vector<bool>(8, true)};
}

}  // namespace tailor::trainer::plan
