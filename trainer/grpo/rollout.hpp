#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "distributed/group.hpp"
#include "trainer/checkpoint/train_state.hpp"

namespace tailor::trainer {

/// One sampled completion and what the update needs to know of it. The log-probabilities are of
/// `ids` under softmax(logits / temperature); where they are not needed the list is empty.
struct Rollout {
  std::int64_t group = 0;         // within its batch: completions of one prompt
  std::int64_t row = 0;           // of the data
  std::vector<std::int64_t> ids;  // the end token included, where one ended it
  bool stopped = true;            // ended by itself, or by a stop string
  bool counts = true;             // false: left out of the loss (mask_truncated_completions)
  double advantage = 0.0;
  std::vector<float> sampler_logprobs;    // as they were when the token was chosen
  std::vector<float> old_logprobs;        // of the trainer, before the batch's first update
  std::vector<float> reference_logprobs;  // of the trainer with the adapter off
  std::vector<float> policy_mask;         // 1 where the policy term counts (top_entropy_quantile)
  std::vector<float> kept;     // 0 where importance_sampling_reject drops a token; empty: nowhere
  std::int64_t recorded = -1;  // its number in the record of the sampler's forwards; -1: in none

  std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t num_loss_tokens() const {
    if (!counts) return 0;
    return kept.empty() ? size() : std::ranges::count(kept, 1.0F);
  }
  bool operator==(const Rollout&) const = default;
};

/// What a batch of rollouts leaves for the updates that are made from it.
struct RolloutBatch {
  std::int64_t num_groups = 0;  // of all ranks
  std::int64_t num_updates = 1, updates_done = 0;
  bool has_spread = true;         // of some group: there is something to learn from
  std::int64_t sampled_at = 0;    // optimizer steps that the weights had made which sampled it
  std::vector<Rollout> rollouts;  // of this rank, by group

  bool used_up() const { return updates_done >= num_updates; }
};

/// Groups that update `update` of a batch is made from: consecutive ones, [begin, end).
struct GroupRange {
  std::int64_t begin = 0, end = 0;
};
GroupRange groups_of_update(const RolloutBatch& batch, std::int64_t update,
                            std::int64_t num_iterations);

/// The rank among `num_ranks` that samples group `group` and trains on it: those of one update are
/// shared out evenly.
int owner_of(std::int64_t group, std::int64_t num_groups, std::int64_t updates_in_pass,
             int num_ranks);

/// The rows of every rank, one rank's behind the other's. Collective.
at::Tensor gathered(const at::Tensor& part, distributed::Group& data);

/// All ranks' rollouts as tensors, for a checkpoint; rank 0's answer counts. Collective.
NamedTensors gather_rollouts(const RolloutBatch& batch, distributed::Group& data);
/// The rollouts of one rank: those it had where there were as many ranks, else those of owner_of().
/// Throws FileError, naming `file`, where the tensors fit neither each other nor data of
/// `num_rows`.
RolloutBatch scatter_rollouts(const NamedTensors& saved, std::int64_t num_iterations,
                              std::int64_t num_rows, const distributed::Group& data,
                              const std::string& file);

}  // namespace tailor::trainer
