#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "trainer/data/source.hpp"

namespace tailor::trainer {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// What the guards remember from step to step.
struct GuardCounts {
  std::int64_t above_max_loss = 0;    // steps in a row
  std::int64_t moving_steps = 0;      // steps with a learning rate above 0
  std::int64_t without_spread = 0;    // GRPO: steps in a row whose groups all lack spread
  std::int64_t above_kl_limit = 0;    // GRPO: steps in a row, of those that measure a divergence
  std::int64_t batches_rewarded = 0;  // GRPO: batches of which some completion got a score

  bool operator==(const GuardCounts&) const = default;
};

/// Everything a restart needs beside the adapter's factors. The schedule is a function of the step,
/// the random numbers of (seed, step) and the order of the data of (seed, epoch), so none of them
/// has a state of its own.
struct TrainState {
  std::int64_t step = 0;        // done
  bool evaluation_due = false;  // that behind `step` was broken off; a run that goes on makes it
  DataPosition data;            // the next row
  std::int64_t num_tokens = 0;
  GuardCounts guards;
  std::int64_t num_updates = 0;              // of the optimizer
  NamedTensors first_moment, second_moment;  // by parameter, float32
  std::int64_t num_rollouts = 0;  // GRPO: completions sampled, each with a random stream of its own
  /// GRPO: rollouts that are not used up yet, by name; empty where none are left over.
  NamedTensors rollouts;
  /// What the run is made from, by name ("data", "model", ...): a resume with others is no resume.
  std::map<std::string, std::string> fingerprints;
};

}  // namespace tailor::trainer
