#pragma once

#include "trainer/data/dataset.hpp"
#include "trainer/sft/adapter_training.hpp"

namespace tailor::trainer {

/// Steps of the whole run: max_steps, or so many as num_train_epochs take.
std::int64_t total_steps(const TrainConfig& config, std::int64_t rows_in_epoch, int num_ranks);

/// Supervised fine-tuning until the last step or a signal to any rank (see InterruptGuard): step,
/// report, evaluate and save, by the intervals of the configuration and at the end. `eval` null: no
/// evaluation. Writes the final adapter nowhere but into its checkpoint. Throws NumericError.
TrainResult train_sft(TrainRun run, const Dataset& train, const Dataset* eval = nullptr);

}  // namespace tailor::trainer
