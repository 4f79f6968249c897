// S tokens of the completions of a batch.
#include "trainer/grpo/update.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "trainer/grpo/sums.hpp"
#include "trainer/parallel/agree.hpp"

namespace tailor::trainer {
namespace {

/// 1 where tokens are of completions that count, whether or not they are kept.
at::Tensor counting_mask(const CompletionBatch& batch) {
  auto mask_S = at::zeros({batch.offsets.back()}, at::kFloat);
  for (std::size_t i = 0; i < batch.rollouts.size(); ++i)
    if (batch.rollouts[i]->counts)
      mask_S.narrow(0, batch.offsets[i], batch.offsets[i + 1] - batch.offsets[i]).fill_(1.0);
  return mask_S;
}

struct Counts {
  double tokens = 0.0, sequences = 0.0;  // of all ranks
  double own_tokens = 0.0;
  double ranks = 0.0;                // with loss tokens
  std::int64_t num_loss_tokens = 0;  // of all ranks
};

/// Loss tokens and completions.
Counts count(std::span<const Rollout> rollouts, distributed::Group& data) {
  auto sums = at::zeros({3}, at::kDouble);
  auto* sum = sums.mutable_data_ptr<double>();
  for (const auto& rollout : rollouts) {
    sum[0] += static_cast<double>(rollout.num_loss_tokens());
    sum[1] += 1.0;
  }
  const double own = sum[0];
  sum[2] = own > 0.0 ? 1.0 : 0.0;
  data.all_reduce(sums, distributed::Reduce::Sum);
  // All may have been left out, cut at the limit or rejected: such an update has no gradient.
  return {.tokens = std::max(sum[0], 1.0),
          .sequences = sum[1],
          .own_tokens = own,
          .ranks = sum[2],
          .num_loss_tokens = static_cast<std::int64_t>(sum[0])};
}

/// bnpo takes the mean over each rank's tokens, and the mean of these; the others over all tokens.
double loss_tokens(const Policy& policy, const Counts& counts) {
  if (policy.config.loss_type != LossType::Bnpo) return counts.tokens;
  return std::max(counts.own_tokens, 1.0) * std::max(counts.ranks, 1.0);
}

/// Whether no parameter moves for this completion: its tokens are left out, or the loss reaches
/// them through an advantage of 0 alone.
bool is_silent(const Rollout& rollout, const GrpoConfig& config) {
  if (rollout.num_loss_tokens() == 0) return true;
  const bool has_kl = config.beta > 0.0 && config.kl_in == KlPlace::Loss;
  return rollout.advantage == 0.0 && !has_kl && config.entropy_coef == 0.0;
}

struct Part {
  std::span<Rollout> rollouts;
  bool learns = true;  // else it has a forward alone
};

/// Neighbouring groups that learn, or do not. One part where ranks need each other in backward.
std::vector<Part> parts_of(std::span<Rollout> rollouts, const Policy& policy) {
  if (lockstep_group(policy.mesh) != nullptr) return {{rollouts}};
  std::vector<Part> out;
  for (std::size_t begin = 0, end = 0; begin < rollouts.size(); begin = end) {
    bool learns = false;
    for (; end < rollouts.size() && rollouts[end].group == rollouts[begin].group; ++end)
      learns |= !is_silent(rollouts[end], policy.config);
    // Each rank of tp judges by its own numbers what is rejected.
    if (policy.mesh.sizes.tp > 1) learns = any_rank(learns, *policy.mesh.tp);
    if (out.empty() || out.back().learns != learns)
      out.push_back({rollouts.subspan(begin, 0), learns});
    auto& part = out.back().rollouts;
    part = {part.data(), part.size() + end - begin};
  }
  return out;
}

/// One batch's forward, loss and, where it learns, backward.
class Pass {
 public:
  Pass(const Policy& policy, Counts counts, Correction correction, models::ForwardRecord* record)
      : policy_(policy),
        counts_(counts),
        correction_(correction),
        record_(record),
        normalizer_{.tokens = loss_tokens(policy, counts),
                    .sequences = counts.sequences,
                    .max_length = static_cast<double>(policy.config.max_completion_length)} {}

  /// `last`: nothing adds to the gradients behind it.
  void operator()(const CompletionBatch& batch, bool learns, bool last, UpdateReport& report,
                  GradientReduction& reduction) const {
    const at::AutoGradMode grad_mode(learns);
    auto passed = forward(policy_, batch, /*keep_logits=*/learns, record_);
    report.num_tokens += batch.num_tokens;
    if (passed.reused) report.num_reused += batch.num_tokens;
    if (batch.rollouts.empty()) {  // other ranks need this one in their backward
      reduction.run(last, [&] { passed.hidden_SD.sum().backward(); });
      return;
    }
    const auto of = policy_batch(batch, passed.tokens);
    const auto part = policy_loss(of, policy_.config, normalizer_);
    const auto entropies_S = passed.tokens.entropies();
    const double entropy = (entropies_S * of.mask_S).sum().item<double>();
    report.loss += part.loss;
    report.entropy += entropy;
    report.policy += part.sums;
    if (of.sampler_S.defined())  // of what was rejected too
      report.mismatch +=
          mismatch_sums(of.offsets, counting_mask(batch), trainer_old(batch, passed.tokens),
                        of.sampler_S, of.weights_S);

    if (!learns) return;
    at::Tensor dentropies_S;
    if (policy_.config.entropy_coef > 0.0) {
      const double share = -policy_.config.entropy_coef / counts_.tokens;
      dentropies_S = of.mask_S * share;
      report.loss += share * entropy;
    }
    const auto dhidden_SD = passed.tokens.backward(part.dlogprobs_S, dentropies_S);
    reduction.run(last, [&] { passed.hidden_SD.backward(dhidden_SD); });
  }

 private:
  /// Before the rollouts' first update, as the trainer has them.
  static at::Tensor trainer_old(const CompletionBatch& batch, const TokenLogprobs& tokens) {
    const auto old_S = token_values(batch, &Rollout::old_logprobs);
    return old_S.defined() ? old_S : tokens.logprobs();
  }

  PolicyBatch policy_batch(const CompletionBatch& batch, const TokenLogprobs& tokens) const {
    PolicyBatch out;
    out.offsets = batch.offsets;
    for (const auto* rollout : batch.rollouts) out.advantages.push_back(rollout->advantage);
    const auto counting_S = counting_mask(batch);
    const auto kept_S = token_values(batch, &Rollout::kept);
    out.mask_S = kept_S.defined() ? counting_S * kept_S : counting_S;
    out.logprobs_S = tokens.logprobs();
    out.sampler_S = token_values(batch, &Rollout::sampler_logprobs);
    out.old_S = correction_ == Correction::Bypass ? out.sampler_S : trainer_old(batch, tokens);
    out.reference_S = token_values(batch, &Rollout::reference_logprobs);
    out.policy_mask_S = token_values(batch, &Rollout::policy_mask);
    if (out.sampler_S.defined())
      out.weights_S = correction_weights(correction_, out.offsets, counting_S, out.old_S,
                                         out.sampler_S, policy_.config.importance_sampling_clip_max,
                                         policy_.config.importance_sampling_clip_min);
    return out;
  }

  const Policy& policy_;
  Counts counts_;
  Correction correction_;
  models::ForwardRecord* record_;
  Normalizer normalizer_;
};

}  // namespace

UpdateReport grpo_update(const Policy& policy, FlatParameters& trainable, AdamW& optimizer,
                         std::span<Rollout> rollouts, const GradientSync& sync,
                         const StepSettings& settings, Correction correction,
                         models::ForwardRecord* record) {
  trainable.gradients().zero_();
  const auto counts = count(rollouts, sync.data());

  UpdateReport report;
  const Pass pass(policy, counts, correction, record);
  auto reduction = reduction_of(sync, trainable);
  const auto parts = parts_of(rollouts, policy);
  // Parts behind it have a forward alone: buckets are under way meanwhile.
  const auto last_learning = std::ranges::find(parts.rbegin(), parts.rend(), true, &Part::learns);
  for (auto part = parts.begin(); part != parts.end(); ++part) {
    const auto batches = completion_batches(policy, part->rollouts, settings);
    for (const auto& batch : batches)
      pass(batch, part->learns, part + 1 == last_learning.base() && &batch == &batches.back(),
           report, reduction);
  }
  reduction.begin_rest();
  add_over_ranks(report, sync.data());
  report.num_loss_tokens = counts.num_loss_tokens;
  report.entropy /= counts.tokens;
  if (!std::isfinite(report.loss)) fail_step(settings.step, "the loss", report.loss);
  report.grad_norm = apply_gradients(trainable, optimizer, reduction, settings);
  return report;
}

}  // namespace tailor::trainer
