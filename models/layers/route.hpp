#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tailor::models {

/// How router logits become experts and weights. Published values a family: see families/*.cpp.
struct RouterConfig {
  std::int64_t num_experts = 0, num_experts_per_tok = 0;
  enum class Score { Softmax, Sigmoid } score = Score::Softmax;  // over all experts, float32
  bool norm_topk_prob = false;         // chosen weights are divided by their sum
  double routed_scaling_factor = 1.0;  // then multiplied by this
  /// Group-limited choice (DeepSeek): the experts are n_group blocks, only those of the topk_group
  /// best blocks can be chosen. V2 ranks a block by its best score, V3 by the sum of its best two
  /// biased scores.
  std::int64_t n_group = 1, topk_group = 1;
  enum class GroupScore { Max, SumOfBestTwo } group_score = GroupScore::Max;
};

struct Routes {
  at::Tensor ids_TK;      // int64, distinct in a row, best first; of equal scores the lower number
  at::Tensor weights_TK;  // float32, differentiable in the logits
};

/// Experts of every token, a pure function. logits (T, E) float32. `bias_E` (float32, DeepSeek-V3's
/// e_score_correction_bias) is added to the scores for the choice alone, never to the weights.
Routes route(const at::Tensor& logits_TE, const RouterConfig& config,
             const at::Tensor& bias_E = {});

/// The weights of experts that were chosen elsewhere (replay): the same rule with ids given.
at::Tensor route_weights(const at::Tensor& logits_TE, const at::Tensor& ids_TK,
                         const RouterConfig& config);

/// Throws ValueError naming the field for sizes that do not fit: num_experts not divisible by
/// n_group, topk_group blocks holding fewer than num_experts_per_tok experts, ...
void check(const RouterConfig& config);

}  // namespace tailor::models
