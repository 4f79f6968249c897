#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trainer/metrics/metrics.hpp"
#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer {

/// Where a run stands, beside the metrics of its last step.
struct Progress {
  std::int64_t total_steps = 0;
  double elapsed_s = 0.0;
  std::optional<double> left_s;  // absent before the first step is done
  std::string activity;          // "evaluating", "saving" or ""
};

/// One line of at most `width` columns: steps, share, bar, elapsed and left time, loss, learning
/// rate, norm of the gradient, tokens a second (supervised ones in parentheses), memory. Where the
/// width does not do, the last of these are left out.
std::string bar_line(const StepMetrics& metrics, const Progress& progress, int width,
                     const Terminal& terminal);

/// The same for a file: every figure, with its name.
std::string plain_line(const StepMetrics& metrics, const Progress& progress);
std::string eval_line(const EvalMetrics& metrics);

std::string duration_text(double seconds);   // "0:07", "12:34", "1:02:03"
std::string bytes_text(std::int64_t bytes);  // "512 MiB", "1.4 GiB"
std::string rate_text(double per_second);    // "0.52", "45", "1,234"

}  // namespace tailor::trainer
