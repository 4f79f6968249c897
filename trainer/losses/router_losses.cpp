// T tokens, E experts, K chosen of them.
#include "trainer/losses/router_losses.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

namespace tailor::trainer {

at::Tensor expert_shares(const at::Tensor& logits_TE, Score score) {
  if (score == Score::Softmax) return logits_TE.softmax(1);
  const auto scores_TE = logits_TE.sigmoid();
  return scores_TE / scores_TE.sum(1, /*keepdim=*/true);
}

at::Tensor expert_counts(const at::Tensor& ids_TK, std::int64_t num_experts) {
  return at::bincount(ids_TK.flatten(), /*weights=*/{}, num_experts).to(at::kDouble);
}

at::Tensor load_balancing_loss(const at::Tensor& logits_TE, const at::Tensor& counts_E,
                               Score score) {
  const auto share_E = (counts_E / counts_E.sum()).to(logits_TE.scalar_type());
  return (share_E * expert_shares(logits_TE, score).mean(0)).sum() * logits_TE.size(1);
}

at::Tensor sequence_balancing_loss(const at::Tensor& logits_TE, const at::Tensor& ids_TK,
                                   const std::vector<std::int64_t>& document_offsets, Score score) {
  auto sum = at::zeros({}, logits_TE.options());
  std::int64_t count = 0;
  for (std::size_t d = 0; d + 1 < document_offsets.size(); ++d) {
    const auto begin = document_offsets[d], length = document_offsets[d + 1] - begin;
    if (length == 0) continue;
    const auto counts_E = expert_counts(ids_TK.narrow(0, begin, length), logits_TE.size(1));
    sum = sum + load_balancing_loss(logits_TE.narrow(0, begin, length), counts_E, score);
    ++count;
  }
  return count == 0 ? sum : sum / count;
}

at::Tensor z_loss(const at::Tensor& logits_TE) { return logits_TE.logsumexp(1).square().mean(); }

void update_correction_bias_(at::Tensor& bias_E, const at::Tensor& counts_E, double rate) {
  bias_E.add_((counts_E.mean() - counts_E).sign().to(bias_E.scalar_type()), rate);
}

}  // namespace tailor::trainer
