#include "trainer/sft/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tailor::trainer {
namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(1, whole));
}

double half_cosine(double progress) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(progress, 1.0)));
}

}  // namespace

double LearningRate::at(std::int64_t step) const {
  const auto raised = [&](double factor) { return factor * (1.0 - min_ratio) + min_ratio; };
  double factor = 1.0;
  if (step < warmup_steps) {
    factor = ratio(step, warmup_steps);
    if (schedule == Schedule::Wsd) factor = raised(factor);  // as get_wsd_schedule does
    return peak * factor;
  }
  switch (schedule) {
    case Schedule::Constant:
      break;
    case Schedule::Linear:
      factor = raised(std::max(0.0, ratio(num_steps - step, num_steps - warmup_steps)));
      break;
    case Schedule::Cosine:
      factor = raised(half_cosine(ratio(step - warmup_steps, num_steps - warmup_steps)));
      break;
    case Schedule::Wsd: {
      const auto decay_begin = std::max(warmup_steps, num_steps - decay_steps);
      if (step >= decay_begin) factor = raised(half_cosine(ratio(step - decay_begin, decay_steps)));
      break;
    }
  }
  return peak * factor;
}

LearningRate learning_rate(const TrainConfig& config, std::int64_t num_steps) {
  const auto share = [&](double part) {
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(num_steps) * part));
  };
  const auto warmup = config.warmup_steps.value_or(share(config.warmup_ratio));
  return {.schedule = config.lr_scheduler_type,
          .peak = config.learning_rate,
          .num_steps = num_steps,
          .warmup_steps = warmup,
          .decay_steps =
              std::min(share(config.decay_ratio), std::max<std::int64_t>(0, num_steps - warmup)),
          .min_ratio = config.min_lr_ratio};
}

}  // namespace tailor::trainer
