#include "trainer/sft/tripwires.hpp"

#include <ATen/ops/count_nonzero.h>

#include <sstream>

#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

/// Not so where there is none: a stage of a pipeline may have no adapted layer.
bool all_lora_B_zero(const FlatParameters& trainable, const at::Tensor& flat) {
  bool any = false;
  for (const auto& [name, view] : trainable.views(flat)) {
    if (name.find("lora_B") == std::string::npos) continue;
    if (view.count_nonzero().item<std::int64_t>() > 0) return false;
    any = true;
  }
  return any;
}

}  // namespace

void check_divergence(std::int64_t step, double loss, const TrainConfig& config,
                      GuardCounts& counts) {
  if (config.max_loss <= 0.0) return;
  counts.above_max_loss = loss > config.max_loss ? counts.above_max_loss + 1 : 0;
  if (counts.above_max_loss < config.max_loss_patience) return;
  std::ostringstream text;
  text << "step " << step << ": the loss is " << loss << ", above train.max_loss "
       << config.max_loss << " for " << counts.above_max_loss
       << " steps in a row; a lower learning rate or a longer warm-up may help";
  throw NumericError(text.str());
}

void check_lora_B(std::int64_t step, double learning_rate, const FlatParameters& trainable,
                  const AdamW& optimizer, GuardCounts& counts) {
  if (learning_rate <= 0.0 || counts.moving_steps >= kStepsUntilLoraBMoves) return;
  if (++counts.moving_steps < kStepsUntilLoraBMoves) return;
  const auto stuck = [&](const std::string& what) {
    throw NumericError("step " + std::to_string(step) + ": lora_B " + what + " after " +
                       std::to_string(kStepsUntilLoraBMoves) +
                       " steps with a learning rate above 0: the adapter does not learn");
  };
  if (all_lora_B_zero(trainable, trainable.values())) stuck("is exactly zero");
  if (all_lora_B_zero(trainable, optimizer.second_moment())) stuck("never had a gradient");
}

}  // namespace tailor::trainer
