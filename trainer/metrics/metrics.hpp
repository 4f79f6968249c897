#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tailor::trainer {

/// counts[i] values lie from edges[i] up to edges[i + 1].
struct Histogram {
  std::vector<double> edges;
  std::vector<std::int64_t> counts;
};

/// A named figure as metrics.jsonl has it; TensorBoard gets the numbers alone.
struct Metric {
  std::string name;
  std::variant<std::int64_t, double, Histogram> value;

  bool is_number() const { return !std::holds_alternative<Histogram>(value); }
  double number() const {  // NaN for a histogram
    if (const auto* integer = std::get_if<std::int64_t>(&value))
      return static_cast<double>(*integer);
    const auto* real = std::get_if<double>(&value);
    return real != nullptr ? *real : std::numeric_limits<double>::quiet_NaN();
  }
};

/// The number of that name; absent where there is none.
std::optional<double> find_number(const std::vector<Metric>& metrics, const std::string& name);

/// What one optimizer step did. Times and memory are the only fields that differ between two equal
/// runs.
struct StepMetrics {
  std::int64_t step = 0;       // steps done, from 1
  double epoch = 0.0;          // passes over the data, with the share of the current one
  double loss = 0.0;           // mean nats a supervised token of this step
  double learning_rate = 0.0;  // of this step
  double grad_norm = 0.0;      // before clipping
  std::optional<double> mean_token_accuracy;  // SFT: supervised tokens that the argmax hits
  std::int64_t num_tokens = 0;                // seen since the run began, resumed parts included
  double tokens_per_second = 0.0;
  double supervised_tokens_per_second = 0.0;
  double step_time_s = 0.0;
  std::int64_t rss_bytes = 0;  // rss_bytes() of memory.hpp
  std::vector<Metric> more;    // of the task: what GRPO tells of rewards and policy
  bool logged = false;         // even where the interval leaves it out
};

/// One pass over the evaluation data after `step` steps.
struct EvalMetrics {
  std::int64_t step = 0;
  double eval_loss = 0.0;  // mean nats a supervised token
  double eval_perplexity = 0.0;
  double eval_mean_token_accuracy = 0.0;
  std::int64_t eval_num_tokens = 0;  // supervised
  double eval_runtime_s = 0.0;
};

/// The fields in the order in which they are written; "step" is the first.
std::vector<Metric> fields(const StepMetrics& metrics);
std::vector<Metric> fields(const EvalMetrics& metrics);

}  // namespace tailor::trainer
