#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "models/batch.hpp"
#include "trainer/grpo/prompt_source.hpp"
#include "trainer/grpo/rollout.hpp"

namespace tailor::trainer {

/// Completions computed together, with their prompts: each prompt once, as a prefix that its
/// completions share (models::Batch::prefix_of), or again for every completion.
struct CompletionBatch {
  models::Batch batch;
  /// Token s of all completions, one completion after the other, is predicted by row rows_S[s] of
  /// the hidden states: the prompt's last token predicts the first token of each completion.
  at::Tensor rows_S, targets_S;       // int64
  std::vector<std::int64_t> offsets;  // {0, ..., S}: completion i is [i] up to [i + 1]
  std::vector<Rollout*> rollouts;     // the completions
  /// Neighbouring rows of the batch: the first `count` tokens of a completion or of its prompt.
  struct Piece {
    const Rollout* rollout;
    bool of_prompt;
    std::int64_t count;
  };
  std::vector<Piece> pieces;    // in the order of the rows, without what fills them up
  std::int64_t num_tokens = 0;  // of the batch without what fills it up
};

enum class Prompts { Shared, Repeated };

/// Cuts completions, in order, into batches of at most `num_tokens`; a longer one is alone.
/// Neighbours of one group share their prompt within a batch. Batches are filled up to a multiple
/// of `row_multiple` tokens by a last document. The cut changes results by rounding alone.
std::vector<CompletionBatch> cut_completions(std::span<Rollout> rollouts,
                                             const std::vector<PromptRow>& rows,
                                             std::int64_t num_tokens, std::int64_t row_multiple,
                                             Prompts prompts);

/// Nothing to learn from, for a rank that must take part in the others' exchanges.
CompletionBatch empty_completions(std::int64_t row_multiple);

}  // namespace tailor::trainer
