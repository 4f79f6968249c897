#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "trainer/report/run_facts.hpp"
#include "trainer/report/samples.hpp"

namespace tailor::trainer {

struct ReportLimits {
  SampleLimits samples;
  std::size_t max_points = 2000;     // of a curve
  std::size_t max_histograms = 200;  // columns of the picture of rewards over steps
};

/// What became of a run, as one HTML page that loads nothing else: curves, rewards, samples,
/// settings. Nothing that the run's files hold is taken for HTML or script.
struct Report {
  std::string html;
  Totals totals;
  std::int64_t num_samples = 0, num_samples_left_out = 0;
  Notes notes;  // what is missing, damaged or left out; the page shows them too
};

/// Reads a directory of `tailor train`, whether the run has ended or goes on. Throws
/// configs::ConfigError where there is no such directory, or neither metrics.jsonl nor
/// completions.jsonl in it. Everything else may be missing.
Report make_report(const std::filesystem::path& run, const ReportLimits& limits = {});

}  // namespace tailor::trainer
