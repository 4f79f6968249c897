#pragma once

#include <cstdint>

#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// The learning rate of every step of a run, a pure function: nothing to save, nothing to restore.
struct LearningRate {
  Schedule schedule = Schedule::Constant;
  double peak = 0.0;
  std::int64_t num_steps = 1, warmup_steps = 0;
  std::int64_t decay_steps = 0;  // wsd: the last steps
  double min_ratio = 0.0;        // linear, cosine, wsd end at this share of the peak

  /// Rate of step `step`, counted from 0. Formulas of transformers' get_*_schedule_with_warmup and
  /// get_wsd_schedule (linear warm-up, cosine decay): with a warm-up, step 0 has rate 0.
  double at(std::int64_t step) const;
};

/// warmup_steps, or ceil(num_steps * warmup_ratio) as in transformers; decay_ratio likewise.
LearningRate learning_rate(const TrainConfig& config, std::int64_t num_steps);

}  // namespace tailor::trainer
