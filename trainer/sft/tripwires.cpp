#include "trainer/sft/tripwires.hpp"

#include <ATen/ops/count_nonzero.h>

#include <algorithm>
#include <sstream>

#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

bool is_lora_B(const std::string& name) { return name.find("lora_B") != std::string::npos; }

}  // namespace

bool any_lora_B_nonzero(const FlatParameters& trainable, const at::Tensor& flat) {
  return std::ranges::any_of(trainable.views(flat), [](const auto& parameter) {
    return is_lora_B(parameter.first) &&
           parameter.second.count_nonzero().template item<std::int64_t>() > 0;
  });
}

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
  if (std::ranges::none_of(trainable.parameters(),
                           [](const auto& parameter) { return is_lora_B(parameter.first); }))
    return;
  if (!any_lora_B_nonzero(trainable, trainable.values())) stuck("is exactly zero");
  if (!any_lora_B_nonzero(trainable, optimizer.second_moment())) stuck("never had a gradient");
}

}  // namespace tailor::trainer
