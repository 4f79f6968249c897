#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "models/kernels/arithmetic.hpp"
#include "trainer/data/example.hpp"

namespace tailor::trainer {

/// Documents computed together.
struct MicroBatch {
  std::vector<const Example*> documents;
  std::int64_t first_token = 0;  // tokens of the step before it: the dropout counter's offset
};

/// Tokens of a micro-batch: enough that the matrix units work at their speed, and no more, since
/// the activations of all of them are kept for backward. bfloat16 activations take half the memory,
/// and its faster products want longer operands (measured on SmolLM2-135M, 2 cores with AMX: 2048
/// tokens are 1.24 times as fast as 512 in bfloat16; in float32 1024 are 1.05 times as fast as
/// 512). A GPU has more units to fill: 8192, which is not measured yet.
inline std::int64_t micro_batch_tokens(models::kernels::Arithmetic arithmetic,
                                       at::Device device = at::kCPU) {
  constexpr std::int64_t kOnGpu = 8192;
  if (device.is_cuda()) return kOnGpu;
  return arithmetic == models::kernels::Arithmetic::BFloat16 ? 2048 : 1024;
}

/// Cuts documents, in order, into micro-batches of at most `num_tokens`, a longer document alone.
/// Documents do not see each other and the loss is a sum over tokens, so the cut changes no result
/// but by rounding (but for BalanceScope::MicroBatch); it is a function of the lengths alone.
std::vector<MicroBatch> cut(std::span<const Example* const> documents, std::int64_t num_tokens);

}  // namespace tailor::trainer
