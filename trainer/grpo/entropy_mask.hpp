#pragma once

#include <ATen/core/Tensor.h>

namespace tailor::trainer {

/// Policy gradients on the tokens of most entropy alone (Wang et al. 2025, arXiv:2506.01939):
/// `top_quantile` is the share of tokens that stay (GrpoConfig::top_entropy_quantile).

/// The entropy that a token must reach: the (1 - top_quantile) quantile, interpolated linearly, of
/// `entropies`, those of all loss tokens of the batch over all ranks, in any order. Infinite where
/// there are none.
double entropy_threshold(const at::Tensor& entropies, double top_quantile);

/// 1.0 where a token counts (`mask_S`) and has at least that entropy, else 0: float32 (S),
/// PolicyBatch::policy_mask_S.
at::Tensor high_entropy_mask(const at::Tensor& entropies_S, const at::Tensor& mask_S,
                             double threshold);

}  // namespace tailor::trainer
