// T tokens, D hidden_size, S supervised tokens, C rows of a chunk, V vocabulary.
#include "trainer/losses/cross_entropy.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nonzero.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "models/kernels/token_loss.hpp"
#include "trainer/losses/head_rows.hpp"
#include "trainer/losses/vocabulary_parallel.hpp"

namespace tailor::trainer {
namespace {

using models::kernels::token_loss_;
using models::kernels::token_loss_reference_;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ChunkedPass {
  LossSums sums;
  at::Tensor dhidden_SD;  // undefined where no gradient is asked for
};

/// Sums in float64 on the host: the order is fixed, whatever the thread count.
LossSums summed(const std::vector<models::kernels::TokenLosses>& chunks) {
  std::vector<at::Tensor> losses, hits;
  for (const auto& chunk : chunks) {
    losses.push_back(chunk.loss_C);
    hits.push_back(chunk.correct_C);
  }
  LossSums sums;
  if (chunks.empty()) return sums;
  const auto loss_S = at::cat(losses).cpu(), correct_S = at::cat(hits).cpu();  // waits for a GPU
  const auto* loss = loss_S.const_data_ptr<float>();
  const auto* correct = correct_S.const_data_ptr<bool>();
  sums.num_tokens = loss_S.numel();
  for (std::int64_t s = 0; s < sums.num_tokens; ++s) {
    sums.loss += static_cast<double>(loss[s]);
    sums.num_correct += correct[s] ? 1 : 0;
  }
  return sums;
}

ChunkedPass chunked_pass(const models::kernels::Weight& head, const at::Tensor& hidden_SD,
                         const at::Tensor& targets_S, bool gradient,
                         const VocabularyPart& vocabulary) {
  const at::NoGradGuard no_grad;
  ChunkedPass out;
  std::vector<models::kernels::TokenLosses> chunks;
  if (gradient) out.dhidden_SD = at::empty_like(hidden_SD);
  for (std::int64_t begin = 0; begin < hidden_SD.size(0); begin += kChunkRows) {
    const auto count = std::min(kChunkRows, hidden_SD.size(0) - begin);
    auto logits_CV = head.forward(filled_up(hidden_SD.narrow(0, begin, count), head.arithmetic()));
    auto used_CV = logits_CV.narrow(0, 0, count);
    const auto targets_C = targets_S.narrow(0, begin, count);
    chunks.push_back(vocabulary.group == nullptr
                         ? token_loss_(used_CV, targets_C, gradient)
                         : vocabulary_parallel_loss_(used_CV, targets_C, gradient, vocabulary));
    if (!gradient) continue;
    logits_CV.narrow(0, count, logits_CV.size(0) - count).zero_();
    at::Tensor dhidden_CD;
    head.backward_(dhidden_CD, logits_CV);
    out.dhidden_SD.narrow(0, begin, count).copy_(dhidden_CD.narrow(0, 0, count));
  }
  out.sums = summed(chunks);
  return out;
}

/// Where the hidden states are.
at::Tensor scalar_beside(const at::Tensor& hidden_SD, double loss) {
  return at::full({}, loss, hidden_SD.options().dtype(at::kFloat).requires_grad(false));
}

struct ChunkedLoss : torch::autograd::Function<ChunkedLoss> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden_SD,
                            const at::Tensor& targets_S, const models::kernels::Weight* head,
                            const VocabularyPart& vocabulary, LossSums* sums) {
    const auto pass = chunked_pass(*head, hidden_SD, targets_S, /*gradient=*/true, vocabulary);
    *sums = pass.sums;
    ctx->save_for_backward({pass.dhidden_SD});
    return scalar_beside(hidden_SD, pass.sums.loss);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    // The one use of the saved gradient, so it may be scaled in place.
    auto dhidden_SD = ctx->get_saved_variables()[0];
    return {dhidden_SD.mul_(gradients[0].to(dhidden_SD.scalar_type())), {}, {}, {}, {}};
  }
};

}  // namespace

LossSums& LossSums::operator+=(const LossSums& other) {
  loss += other.loss;
  num_tokens += other.num_tokens;
  num_correct += other.num_correct;
  return *this;
}

SummedLoss summed_cross_entropy(const models::CausalLM& model, const at::Tensor& hidden_TD,
                                const at::Tensor& targets_T, const VocabularyPart& vocabulary) {
  const auto device = hidden_TD.device();
  const auto rows_S = targets_T.ne(kIgnore).nonzero().squeeze(1);
  const auto targets_S = targets_T.index_select(0, rows_S).to(device);
  const bool all = rows_S.numel() == targets_T.numel();
  const auto hidden_SD = all ? hidden_TD : hidden_TD.index_select(0, rows_S.to(device));
  const auto& head = model.lm_head().layer().weight();
  SummedLoss out;
  if (hidden_SD.requires_grad() && at::GradMode::is_enabled()) {
    out.loss = ChunkedLoss::apply(hidden_SD, targets_S, &head, vocabulary, &out.sums);
  } else {
    out.sums = chunked_pass(head, hidden_SD, targets_S, /*gradient=*/false, vocabulary).sums;
    out.loss = scalar_beside(hidden_SD, out.sums.loss);
  }
  return out;
}

SummedLoss summed_cross_entropy_reference(const models::CausalLM& model,
                                          const at::Tensor& hidden_TD,
                                          const at::Tensor& targets_T) {
  const auto rows_S = targets_T.ne(kIgnore).nonzero().squeeze(1);
  const auto targets_S = targets_T.index_select(0, rows_S);
  auto logits_SV = model.lm_head()(hidden_TD.index_select(0, rows_S));
  SummedLoss out;
  const auto logp_SV = logits_SV.to(at::kFloat).log_softmax(1);
  out.loss = -logp_SV.gather(1, targets_S.unsqueeze(1)).sum();
  const at::NoGradGuard no_grad;
  auto scratch = logits_SV.detach().clone();
  out.sums = summed({token_loss_reference_(scratch, targets_S, /*gradient=*/false)});
  return out;
}

}  // namespace tailor::trainer
