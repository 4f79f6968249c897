#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "models/layers/route.hpp"

namespace tailor::trainer {

/// Losses that keep the experts of a sparse layer equally busy. Pure functions of what a router
/// said (models::RoutingTrace): logits (T, E) float32 or float64, ids (T, K) int64. Tokens are
/// those that count, padding left out. Coefficients and the mean over layers are the caller's.
using Score = models::RouterConfig::Score;

/// What a router thinks of every expert, p_te: softmax, or sigmoid divided by its sum over experts.
at::Tensor expert_shares(const at::Tensor& logits_TE, Score score = Score::Softmax);

/// Slots that go to every expert, c_e: (E) float64, without gradient.
at::Tensor expert_counts(const at::Tensor& ids_TK, std::int64_t num_experts);

/// Load balancing of one layer: E sum_e f_e P_e, with f_e = c_e / sum c the share of slots and
/// P_e = mean_t p_te the mean of expert_shares() (Fedus et al. 2021, arXiv:2101.03961, eqs. 4 to 6;
/// here f sums to 1 for any K). 1 at balance. `counts_E`
/// may come from more tokens than these: of a whole batch, of all ranks (arXiv:2501.11873).
at::Tensor load_balancing_loss(const at::Tensor& logits_TE, const at::Tensor& counts_E,
                               Score score = Score::Softmax);

/// The same in each document, averaged over documents (DeepSeek-AI 2024, arXiv:2412.19437, eqs. 17
/// to 20). `document_offsets` {0, ..., T}; documents without tokens do not count.
at::Tensor sequence_balancing_loss(const at::Tensor& logits_TE, const at::Tensor& ids_TK,
                                   const std::vector<std::int64_t>& document_offsets,
                                   Score score = Score::Softmax);

/// mean_t logsumexp(z_t)^2 (Zoph et al. 2022, arXiv:2202.08906, eq. 5).
at::Tensor z_loss(const at::Tensor& logits_TE);

/// b_e += rate sign(mean c - c_e), in place, after an optimizer step: experts that were busier than
/// the mean become less likely (Wang et al. 2024, arXiv:2408.15664, algorithm 1). Counts of all
/// ranks.
void update_correction_bias_(at::Tensor& bias_E, const at::Tensor& counts_E, double rate);

}  // namespace tailor::trainer
