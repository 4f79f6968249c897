// S rows, C rows of a chunk, V the part of the vocabulary that is held here, D hidden_size.
#include "trainer/losses/token_logprobs.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "trainer/losses/head_rows.hpp"

namespace tailor::trainer {
namespace {

using distributed::Reduce;

/// Where a target stands in this rank's part of the vocabulary.
struct Local {
  at::Tensor index_C1;  // 0 where it is not here
  at::Tensor here_C;    // float32, 1 or 0
};

Local local_targets(const at::Tensor& targets_C, std::int64_t width,
                    const VocabularyPart& vocabulary) {
  const auto local_C = targets_C - vocabulary.first;
  const auto here_C = (local_C >= 0).logical_and_(local_C < width);
  return {local_C.masked_fill(here_C.logical_not(), 0).unsqueeze(1), here_C.to(at::kFloat)};
}

void over_ranks(at::Tensor& tensor, Reduce op, const VocabularyPart& vocabulary) {
  if (vocabulary.group != nullptr) vocabulary.group->all_reduce(tensor, op);
}

}  // namespace

TokenLogprobs::TokenLogprobs(const models::CausalLM& model, at::Tensor hidden_SD,
                             at::Tensor targets_S, double temperature,
                             const VocabularyPart& vocabulary, bool keep_logits)
    : head_(model.lm_head().layer().weight()),
      hidden_SD_(std::move(hidden_SD)),
      targets_S_(std::move(targets_S)),
      temperature_(temperature),
      vocabulary_(vocabulary) {
  const at::NoGradGuard no_grad;
  const auto rows = hidden_SD_.size(0);
  TORCH_CHECK_VALUE(targets_S_.dim() == 1 && targets_S_.size(0) == rows, "token_logprobs: ", rows,
                    " rows of hidden states and targets ", targets_S_.sizes(), " do not fit");
  const auto options = hidden_SD_.options().dtype(at::kFloat);
  logprobs_S_ = at::empty({rows}, options);
  entropies_S_ = at::empty({rows}, options);
  const bool keep =
      keep_logits &&
      rows * head_.out_features() * static_cast<std::int64_t>(sizeof(float)) <= kKeptLogitsBytes;
  targets_S_ = targets_S_.to(hidden_SD_.device());
  for (std::int64_t begin = 0; begin < rows; begin += kChunkRows)
    measure({begin, std::min(kChunkRows, rows - begin), {}, {}}, keep);
  logprobs_S_ = logprobs_S_.cpu();
  entropies_S_ = entropies_S_.cpu();
}

at::Tensor TokenLogprobs::scaled_logits(std::int64_t begin, std::int64_t count) const {
  const auto rows_CD = filled_up(hidden_SD_.narrow(0, begin, count), head_.arithmetic());
  auto logits_CV = head_.forward(rows_CD).narrow(0, 0, count).to(at::kFloat);
  if (temperature_ != 1.0) logits_CV.div_(temperature_);
  return logits_CV;
}

void TokenLogprobs::measure(Chunk chunk, bool keep) {
  auto z_CV = scaled_logits(chunk.begin, chunk.count);
  const auto targets =
      local_targets(targets_S_.narrow(0, chunk.begin, chunk.count), z_CV.size(1), vocabulary_);
  auto top_C = z_CV.amax(1);
  over_ranks(top_C, Reduce::Max, vocabulary_);
  const auto shifted_CV = z_CV - top_C.unsqueeze(1);
  const auto picked_C = shifted_CV.gather(1, targets.index_C1).squeeze(1) * targets.here_C;
  const auto exp_CV = shifted_CV.exp();
  // sum p z = sum exp(z - top) (z - top) / sum exp(z - top) + top
  auto sums = at::stack({exp_CV.sum(1), picked_C, (exp_CV * shifted_CV).sum(1)});
  over_ranks(sums, Reduce::Sum, vocabulary_);
  const auto log_C = sums[0].log();
  logprobs_S_.narrow(0, chunk.begin, chunk.count).copy_(sums[1] - log_C);
  entropies_S_.narrow(0, chunk.begin, chunk.count).copy_(log_C - sums[2] / sums[0]);
  chunk.log_sum_C = log_C + top_C;
  if (keep) chunk.logits_CV = std::move(z_CV);
  chunks_.push_back(std::move(chunk));
}

at::Tensor TokenLogprobs::backward(const at::Tensor& dlogprobs_S, const at::Tensor& dentropies_S) {
  const at::NoGradGuard no_grad;
  auto dhidden_SD = at::empty_like(hidden_SD_);
  for (auto& chunk : chunks_) {
    auto z_CV = chunk.logits_CV.defined() ? std::move(chunk.logits_CV)
                                          : scaled_logits(chunk.begin, chunk.count);
    const auto part = [&](const at::Tensor& x_S) {
      return x_S.narrow(0, chunk.begin, chunk.count);
    };
    const auto beside = [&](const at::Tensor& x_S) {  // float32, where the logits are
      return part(x_S).to(z_CV.device(), at::kFloat);
    };
    const auto targets = local_targets(part(targets_S_), z_CV.size(1), vocabulary_);
    const auto dlogprobs_C = beside(dlogprobs_S);
    auto logp_CV = z_CV.sub_(chunk.log_sum_C.unsqueeze(1));
    at::Tensor dz_CV;
    if (dentropies_S.defined()) {
      const auto p_CV = logp_CV.exp();
      const auto dentropies_C1 = beside(dentropies_S).unsqueeze(1);
      dz_CV = logp_CV.add_(beside(entropies_S_).unsqueeze(1)).mul_(-dentropies_C1);
      dz_CV.sub_(dlogprobs_C.unsqueeze(1)).mul_(p_CV);
    } else {
      dz_CV = logp_CV.exp_().mul_(-dlogprobs_C.unsqueeze(1));
    }
    dz_CV.scatter_add_(1, targets.index_C1, (dlogprobs_C * targets.here_C).unsqueeze(1));
    if (temperature_ != 1.0) dz_CV.div_(temperature_);
    at::Tensor dhidden_CD;
    head_.backward_(dhidden_CD, filled_up(dz_CV.to(hidden_SD_.scalar_type()), head_.arithmetic()));
    part(dhidden_SD).copy_(dhidden_CD.narrow(0, 0, chunk.count));
  }
  chunks_.clear();
  return dhidden_SD;
}

}  // namespace tailor::trainer
