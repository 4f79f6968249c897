#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/grpo/grpo_config.hpp"

namespace tailor::trainer {

/// mask_S without what the rules reject: 1 where a token still counts. Other than by weights of 0,
/// what is dropped leaves the denominators that count tokens and the divergence in the loss too; a
/// response of which nothing is left still counts as one (in verl it does not). With
/// d = old - sampler, a token has
///   k1 = exp(d), which is to lie within [min, max] (min absent: 1 / max);
///   k2 = d^2 / 2 and k3 = exp(d) - 1 - d, which are to be at most max,
/// and a response the sum, mean or largest of its tokens', of k1 exp(sum of d) or exp(mean of d).
/// A token stays where all rules hold, which look at all tokens of mask_S. These are the reject
/// masks of verl (its bounds of k1 are on the inverse, exp(-d)); seq_mean_k1 is the geometric mask
/// of Liu et al. 2025, "When Speed Kills Stability". Tensors are (S), responses by offsets, as in
/// PolicyBatch.
at::Tensor kept_mask(const std::vector<RejectRule>& rules, const std::vector<std::int64_t>& offsets,
                     const at::Tensor& mask_S, const at::Tensor& old_S,
                     const at::Tensor& sampler_S);

}  // namespace tailor::trainer
