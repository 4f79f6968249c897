// T tokens of a batch, D hidden_size, S tokens of completions.
#include "trainer/grpo/policy.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "trainer/parallel/agree.hpp"

namespace tailor::trainer {

std::vector<CompletionBatch> completion_batches(const Policy& policy, std::span<Rollout> rollouts,
                                                const StepSettings& settings) {
  // FlashAttention, which GPUs are fast with, has no shared prefixes.
  const bool shares = policy.config.share_prompts && policy.model.device().is_cpu();
  auto out = cut_completions(rollouts, policy.rows, settings.micro_batch_tokens,
                             settings.row_multiple, shares ? Prompts::Shared : Prompts::Repeated);
  auto* const lockstep = lockstep_group(policy.mesh);
  if (lockstep == nullptr) return out;
  const auto number = most_of_ranks(static_cast<std::int64_t>(out.size()), *lockstep);
  while (static_cast<std::int64_t>(out.size()) < number)
    out.push_back(empty_completions(settings.row_multiple));
  return out;
}

namespace {

/// What the rows of a batch are, but for those that fill it up.
std::vector<models::ForwardRecord::Tokens> tokens_of(const CompletionBatch& batch) {
  std::vector<models::ForwardRecord::Tokens> out;
  for (const auto& piece : batch.pieces)
    out.push_back({piece.rollout->recorded, piece.of_prompt, piece.count});
  return out;
}

}  // namespace

Forward forward(const Policy& policy, const CompletionBatch& batch, bool keep_logits,
                models::ForwardRecord* record) {
  at::Tensor hidden_TD;
  bool reused = false;
  {
    std::optional<models::ForwardRecord::Replay> replay;
    if (record != nullptr) replay.emplace(*record, tokens_of(batch), batch.batch.num_tokens());
    reused = replay && replay->knows_all();
    hidden_TD = policy.model.hidden_states(batch.batch);
  }
  auto hidden_SD = hidden_TD.index_select(0, batch.rows_S.to(hidden_TD.device()));
  TokenLogprobs tokens(policy.model, hidden_SD.detach(), batch.targets_S, policy.config.temperature,
                       policy.vocabulary, keep_logits);
  return {std::move(hidden_SD), std::move(tokens), reused};
}

void measure(const Policy& policy, std::span<Rollout> rollouts, const StepSettings& settings,
             std::vector<float> Rollout::*into, std::vector<float>* entropies,
             models::ForwardRecord* record) {
  const at::NoGradGuard no_grad;
  for (const auto& batch : completion_batches(policy, rollouts, settings)) {
    const auto passed = forward(policy, batch, /*keep_logits=*/false, record);
    const auto* logprob = passed.tokens.logprobs().const_data_ptr<float>();
    for (std::size_t i = 0; i < batch.rollouts.size(); ++i)
      (batch.rollouts[i]->*into).assign(logprob + batch.offsets[i], logprob + batch.offsets[i + 1]);
    if (entropies == nullptr) continue;
    const auto* entropy = passed.tokens.entropies().const_data_ptr<float>();
    entropies->insert(entropies->end(), entropy, entropy + batch.offsets.back());
  }
}

at::Tensor token_values(const CompletionBatch& batch, std::vector<float> Rollout::*from) {
  std::vector<float> values;
  for (const auto* rollout : batch.rollouts)
    values.insert(values.end(), (rollout->*from).begin(), (rollout->*from).end());
  if (values.empty()) return {};
  return at::tensor(values, at::kFloat);
}

}  // namespace tailor::trainer
