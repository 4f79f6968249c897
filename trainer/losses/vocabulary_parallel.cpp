// C rows, V the part of the vocabulary that is held here.
#include "trainer/losses/vocabulary_parallel.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>

namespace tailor::trainer {

using distributed::Reduce;

models::kernels::TokenLosses vocabulary_parallel_loss_(at::Tensor& logits_CV,
                                                       const at::Tensor& target_C, bool gradient,
                                                       const VocabularyPart& vocabulary) {
  const auto exact_CV = logits_CV.to(at::kFloat);
  const auto local_C = target_C - vocabulary.first;
  const auto here_C = (local_C >= 0).logical_and_(local_C < logits_CV.size(1));
  const auto index_C1 = local_C.masked_fill(here_C.logical_not(), 0).unsqueeze(1);

  auto top_C = exact_CV.amax(1);
  vocabulary.group->all_reduce(top_C, Reduce::Max);
  const auto picked_C =
      exact_CV.gather(1, index_C1).squeeze(1).masked_fill(here_C.logical_not(), 0.0);
  auto sums = at::stack({(exact_CV - top_C.unsqueeze(1)).exp_().sum(1), picked_C});
  vocabulary.group->all_reduce(sums, Reduce::Sum);
  const auto log_sum_C = sums.select(0, 0).log() + top_C;
  const auto target_logit_C = sums.select(0, 1);

  if (gradient) {
    auto gradient_CV = (exact_CV - log_sum_C.unsqueeze(1)).exp_();
    gradient_CV.scatter_add_(1, index_C1, -here_C.unsqueeze(1).to(at::kFloat));
    logits_CV.copy_(gradient_CV);
  }
  return {(log_sum_C - target_logit_C).contiguous(), target_logit_C >= top_C};
}

}  // namespace tailor::trainer
