// T tokens, E experts, K chosen of them, G groups of S experts each.
#include "models/layers/route.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <c10/util/Exception.h>

#include <limits>
#include <tuple>

#include "models/kernels/sigmoid.hpp"

namespace tailor::models {
namespace {

using Score = RouterConfig::Score;
using GroupScore = RouterConfig::GroupScore;

/// ids[0] ... ids[count - 1]: a sorted list that each entry is put into where it belongs. An entry
/// moves before smaller ones alone, so that of equal ones the lower number comes first.
template <class T>
void best_of_row(const T* scores, std::int64_t size, std::int64_t count, std::int64_t* ids) {
  std::int64_t held = 0;
  for (std::int64_t e = 0; e < size; ++e) {
    if (held == count && !(scores[e] > scores[ids[count - 1]])) continue;
    auto place = held < count ? held++ : count - 1;
    for (; place > 0 && scores[e] > scores[ids[place - 1]]; --place) ids[place] = ids[place - 1];
    ids[place] = e;
  }
}

template <class T>
at::Tensor best_of_rows(const at::Tensor& scores_TE, std::int64_t count) {
  const auto size = scores_TE.size(1);
  auto ids_TK = at::empty({scores_TE.size(0), count}, scores_TE.options().dtype(at::kLong));
  const auto* scores = scores_TE.const_data_ptr<T>();
  auto* ids = ids_TK.mutable_data_ptr<std::int64_t>();
  at::parallel_for(0, scores_TE.size(0), /*grain_size=*/256, [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) best_of_row(scores + t * size, size, count, ids + t * count);
  });
  return ids_TK;
}

/// The `count` best of each row, best first; of equal ones the lower number, which topk does not
/// promise.
at::Tensor best_ids(const at::Tensor& scores_TE, std::int64_t count) {
  const auto dtype = scores_TE.scalar_type();
  if (scores_TE.is_cpu() && dtype == at::kFloat)
    return best_of_rows<float>(scores_TE.contiguous(), count);
  if (scores_TE.is_cpu() && dtype == at::kDouble)
    return best_of_rows<double>(scores_TE.contiguous(), count);
  const auto order =
      std::get<1>(at::sort(scores_TE, /*stable=*/true, /*dim=*/1, /*descending=*/true));
  return order.narrow(1, 0, count).contiguous();
}

at::Tensor scores(const at::Tensor& logits_TE, Score score) {
  return score == Score::Sigmoid ? kernels::sigmoid(logits_TE) : logits_TE.softmax(-1);
}

/// What the choice is by. Softmax grows with the logit, so that logits rank like scores and without
/// its rounding; a bias, or a sum of scores, needs the scores themselves.
at::Tensor choice_scores(const at::Tensor& logits_TE, const RouterConfig& config,
                         const at::Tensor& bias_E) {
  const bool sums = config.n_group > 1 && config.group_score == GroupScore::SumOfBestTwo;
  if (!bias_E.defined() && !sums) return logits_TE;
  const auto scores_TE = scores(logits_TE, config.score);
  return bias_E.defined() ? scores_TE + bias_E : scores_TE;
}

/// Scores outside the topk_group best blocks become -infinity.
at::Tensor within_best_groups(const at::Tensor& scores_TE, const RouterConfig& config) {
  const auto scores_TGS = scores_TE.unflatten(1, {config.n_group, -1});
  const bool sums = config.group_score == GroupScore::SumOfBestTwo;
  const auto sorted_TGS = std::get<0>(scores_TGS.sort(-1, /*descending=*/true));
  const auto score_TG = sorted_TGS.narrow(-1, 0, sums ? 2 : 1).sum(-1);
  const auto kept = best_ids(score_TG, config.topk_group);
  auto outside_TG = at::ones_like(score_TG, at::kBool);
  outside_TG.scatter_(1, kept, false);
  return scores_TGS.masked_fill(outside_TG.unsqueeze(-1), -std::numeric_limits<double>::infinity())
      .flatten(1);
}

}  // namespace

Routes route(const at::Tensor& logits_TE, const RouterConfig& config, const at::Tensor& bias_E) {
  at::Tensor ids_TK;
  {
    const at::NoGradGuard no_grad;
    auto choice_TE = choice_scores(logits_TE, config, bias_E);
    if (config.n_group > 1) choice_TE = within_best_groups(choice_TE, config);
    ids_TK = best_ids(choice_TE, config.num_experts_per_tok);
  }
  return {ids_TK, route_weights(logits_TE, ids_TK, config)};
}

at::Tensor route_weights(const at::Tensor& logits_TE, const at::Tensor& ids_TK,
                         const RouterConfig& config) {
  at::Tensor weights_TK;
  if (config.score == Score::Sigmoid) {
    weights_TK = kernels::sigmoid(logits_TE.gather(1, ids_TK));
    // The published formula's guard against a sum of 0.
    if (config.norm_topk_prob) weights_TK = weights_TK / (weights_TK.sum(1, true) + 1e-20);
  } else if (config.norm_topk_prob) {
    // exp(z_i) / sum over all, divided by its sum over the chosen: a softmax over the chosen.
    weights_TK = logits_TE.gather(1, ids_TK).softmax(1);
  } else {
    weights_TK = logits_TE.softmax(1).gather(1, ids_TK);
  }
  if (config.routed_scaling_factor == 1.0) return weights_TK;
  return weights_TK * config.routed_scaling_factor;
}

void check(const RouterConfig& config) {
  const auto experts = config.num_experts, groups = config.n_group;
  TORCH_CHECK_VALUE(experts > 0, "num_experts: expected at least 1, got ", experts);
  TORCH_CHECK_VALUE(config.num_experts_per_tok > 0 && config.num_experts_per_tok <= experts,
                    "num_experts_per_tok: expected 1 to num_experts = ", experts, ", got ",
                    config.num_experts_per_tok);
  TORCH_CHECK_VALUE(groups > 0 && experts % groups == 0,
                    "n_group: expected a divisor of num_experts = ", experts, ", got ", groups);
  TORCH_CHECK_VALUE(config.topk_group > 0 && config.topk_group <= groups,
                    "topk_group: expected 1 to n_group = ", groups, ", got ", config.topk_group);
  TORCH_CHECK_VALUE(config.topk_group * (experts / groups) >= config.num_experts_per_tok,
                    "topk_group: ", config.topk_group, " groups hold ",
                    config.topk_group * (experts / groups),
                    " experts, fewer than num_experts_per_tok = ", config.num_experts_per_tok);
  TORCH_CHECK_VALUE(
      config.group_score != GroupScore::SumOfBestTwo || groups == 1 || experts / groups >= 2,
      "n_group: groups are ranked by their best two experts, but hold ", experts / groups);
}

}  // namespace tailor::models
