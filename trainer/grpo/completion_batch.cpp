#include "trainer/grpo/completion_batch.hpp"

#include <ATen/ops/tensor.h>

#include <utility>

#include "models/prompt_group.hpp"

namespace tailor::trainer {
namespace {

using Rows = std::vector<PromptRow>;

const std::vector<std::int64_t>& prompt_of(const Rollout& rollout, const Rows& rows) {
  return rows.at(static_cast<std::size_t>(rollout.row)).ids;
}

/// What forward sees of a completion: its last token predicts nothing.
std::vector<std::int64_t> inputs(const Rollout& rollout) {
  return {rollout.ids.begin(), rollout.ids.end() - 1};
}

/// Completion i begins a group among its neighbours.
bool begins_group(std::span<Rollout* const> rollouts, std::size_t i) {
  return i == 0 || rollouts[i]->group != rollouts[i - 1]->group;
}

models::Batch pack_shared(std::span<Rollout* const> rollouts, const Rows& rows,
                          std::int64_t row_multiple) {
  std::vector<models::PromptGroup> groups;
  for (std::size_t i = 0; i < rollouts.size(); ++i) {
    if (begins_group(rollouts, i))
      groups.push_back({.prompt = prompt_of(*rollouts[i], rows), .completions = {}});
    groups.back().completions.push_back(inputs(*rollouts[i]));
  }
  return models::pack_with_prefixes(groups, row_multiple);
}

models::Batch pack_repeated(std::span<Rollout* const> rollouts, const Rows& rows,
                            std::int64_t row_multiple) {
  std::vector<models::PromptGroup> groups;  // prompts alone: nothing is shared
  for (const auto* rollout : rollouts) {
    auto document = prompt_of(*rollout, rows);
    const auto own = inputs(*rollout);
    document.insert(document.end(), own.begin(), own.end());
    groups.push_back({.prompt = std::move(document), .completions = {}});
  }
  return models::pack_with_prefixes(groups, row_multiple);
}

/// Completions that are computed together.
struct Together {
  std::vector<Rollout*> rollouts;
  std::int64_t num_tokens = 0;
};

CompletionBatch batch_of(Together together, const Rows& rows, std::int64_t row_multiple,
                         Prompts prompts) {
  const bool shares = prompts == Prompts::Shared;
  CompletionBatch out;
  out.batch = (shares ? pack_shared : pack_repeated)(together.rollouts, rows, row_multiple);
  out.num_tokens = together.num_tokens;
  out.offsets.push_back(0);
  const auto& begin = out.batch.document_offsets;
  std::vector<std::int64_t> predicting, targets;
  std::size_t document = 0;
  std::int64_t prompt_end = 0;  // behind the prompt's last row
  for (std::size_t i = 0; i < together.rollouts.size(); ++i) {
    const auto& rollout = *together.rollouts[i];
    const auto length = static_cast<std::int64_t>(prompt_of(rollout, rows).size());
    if (!shares || begins_group(together.rollouts, i)) {
      prompt_end = begin[document++] + length;
      out.pieces.push_back({.rollout = &rollout, .of_prompt = true, .count = length});
    }
    out.pieces.push_back({.rollout = &rollout, .of_prompt = false, .count = rollout.size() - 1});
    const auto own = shares ? begin[document++] : prompt_end;
    predicting.push_back(prompt_end - 1);
    for (std::int64_t t = 0; t + 1 < rollout.size(); ++t) predicting.push_back(own + t);
    targets.insert(targets.end(), rollout.ids.begin(), rollout.ids.end());
    out.offsets.push_back(static_cast<std::int64_t>(targets.size()));
  }
  out.rows_S = at::tensor(predicting, at::kLong);
  out.targets_S = at::tensor(targets, at::kLong);
  out.rollouts = std::move(together.rollouts);
  return out;
}

}  // namespace

std::vector<CompletionBatch> cut_completions(std::span<Rollout> rollouts, const Rows& rows,
                                             std::int64_t num_tokens, std::int64_t row_multiple,
                                             Prompts prompts) {
  std::vector<CompletionBatch> out;
  Together together;
  const auto close = [&] {
    if (!together.rollouts.empty())
      out.push_back(batch_of(std::exchange(together, {}), rows, row_multiple, prompts));
  };
  for (auto& rollout : rollouts) {
    const auto cost = [&] {
      const bool shares = prompts == Prompts::Shared && !together.rollouts.empty() &&
                          together.rollouts.back()->group == rollout.group;
      const auto prompt = static_cast<std::int64_t>(prompt_of(rollout, rows).size());
      return rollout.size() - 1 + (shares ? 0 : prompt);
    };
    if (together.num_tokens + cost() > num_tokens) close();
    together.num_tokens += cost();
    together.rollouts.push_back(&rollout);
  }
  close();
  return out;
}

CompletionBatch empty_completions(std::int64_t row_multiple) {
  CompletionBatch out;
  const std::vector<std::int64_t> zeros(static_cast<std::size_t>(row_multiple), 0);
  out.batch = models::pack({zeros});
  out.rows_S = out.targets_S = at::tensor(std::vector<std::int64_t>{}, at::kLong);
  out.offsets = {0};
  return out;
}

}  // namespace tailor::trainer
