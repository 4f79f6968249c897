#pragma once

#include <cstdint>

#include "models/kernels/arithmetic.hpp"

namespace tailor::trainer {

/// A sparse feed-forward block as in Qwen3-MoE: softmax router, SwiGLU experts, no shared expert.
struct MoeShape {
  std::int64_t tokens = 2048, hidden_size = 512, moe_intermediate_size = 256;
  std::int64_t num_experts = 8, num_experts_per_tok = 2;
};

struct MoeSpeed {
  double seconds = 0.0;  // median of forward and backward together
  double tokens_per_second = 0.0;
  double gflops = 0.0;  // of the frozen base: forward and the gradient of its input
};

/// Forward and backward of one block with random float32 weights, router and experts frozen, the
/// input's gradient wanted; r > 0: with LoRA of that rank on every expert's three matrices, whose
/// gradients are wanted too.
MoeSpeed measure_moe(const MoeShape& shape, models::kernels::Arithmetic arithmetic, std::int64_t r);

}  // namespace tailor::trainer
