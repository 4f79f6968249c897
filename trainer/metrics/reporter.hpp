#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

struct ReporterOptions {
  std::filesystem::path dir;  // run directory: metrics.jsonl and tensorboard/ are written there
  bool jsonl = true, tensorboard = true;
  bool silent = false;         // no bar and no lines, for ranks beside the first
  std::string curve = "loss";  // the number of a step that curve() collects
  std::int64_t total_steps = 0;
  std::int64_t logging_steps = 1;  // multiples of it are logged, the last step, and
                                   // steps with StepMetrics::logged
  /// The step of the checkpoint that the run goes on from, 0 at a fresh start. What the files hold
  /// of later steps is taken back, so that a resumed run leaves the lines of an uninterrupted one.
  /// A checkpoint of step n must therefore be written after everything of step n is reported.
  std::int64_t resumed_step = 0;
  /// The evaluation of resumed_step is made again; metrics.jsonl holds it once.
  bool resumed_evaluation_due = false;
};

/// Tells a run's progress to the terminal (a bar; plain lines where stderr is no terminal), to
/// metrics.jsonl and to TensorBoard. Every line is in the file when the call returns. Throws
/// configs::ConfigError where a file cannot be written.
class Reporter {
 public:
  explicit Reporter(const ReporterOptions& options);
  ~Reporter();  // takes the bar away
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  void report(const StepMetrics& metrics);  // after every step
  void report(const EvalMetrics& metrics);
  /// An evaluation in the task's own figures, "step" the first of them, and the line that tells it.
  void report(const std::vector<Metric>& evaluation, const std::string& line);
  /// A word for what goes on beside the steps ("evaluating", "saving"), shown in the bar until the
  /// next report; "" takes it away.
  void activity(const std::string& what);
  void finish();  // takes the bar away and prints the last line; once

  /// ReporterOptions::curve of the logged steps that have it, those before a resumption included,
  /// for draw_curve().
  const std::vector<double>& curve() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tailor::trainer
