#pragma once

#include "trainer/checkpoint/train_state.hpp"
#include "trainer/run_config.hpp"
#include "trainer/sft/optimizer.hpp"

namespace tailor::trainer {

/// Steps after which an adapter whose lora_B never got a gradient stops the job. Warm-up steps with
/// rate 0 do not count.
constexpr std::int64_t kStepsUntilLoraBMoves = 10;

/// Stops a job that diverges: throws NumericError once the loss has been above config.max_loss for
/// config.max_loss_patience steps in a row (max_loss 0: never).
void check_divergence(std::int64_t step, double loss, const TrainConfig& config,
                      GuardCounts& counts);

/// Whether an entry of any lora_B is not zero, in a tensor that is laid out like the values.
bool any_lora_B_nonzero(const FlatParameters& trainable, const at::Tensor& flat);

/// Throws NumericError where, after kStepsUntilLoraBMoves moving steps, every lora_B is exactly
/// zero or none of them ever had a gradient (its second moment, a sum of squares, is zero). Not
/// where there is none: a stage of a pipeline may have no adapted layer.
void check_lora_B(std::int64_t step, double learning_rate, const FlatParameters& trainable,
                  const AdamW& optimizer, GuardCounts& counts);

}  // namespace tailor::trainer
