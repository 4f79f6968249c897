#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/report/metrics_table.hpp"
#include "trainer/report/run_facts.hpp"
#include "trainer/report/samples.hpp"

namespace tailor::trainer {

/// All that the page shows.
struct PageData {
  std::string name;     // of the run directory, valid UTF-8
  std::string written;  // when, for people
  std::optional<JobFacts> job;
  std::optional<AdapterFacts> adapter;
  std::vector<CheckpointFacts> checkpoints;
  Totals totals;
  Curves curves;
  std::vector<RewardHistogram> histograms;
  std::optional<Samples> samples;
  Notes notes;
};

/// The object that page/page.js reads, script_safe(). Numbers of curves have seven digits, whole
/// ones all; NaN and infinities are "nan", "inf" and "-inf", what is absent is null.
std::string page_json(const PageData& data);

}  // namespace tailor::trainer
