#include "trainer/report/report.hpp"

#include <array>
#include <ctime>
#include <utility>

#include "configs/reader.hpp"
#include "models/text/utf8.hpp"
#include "trainer/report/page.hpp"
#include "trainer/report/page_data.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;
using configs::ConfigError;

constexpr const char* kMetrics = "metrics.jsonl";
constexpr const char* kCompletions = "completions.jsonl";

std::string now_text() {  // "2026-03-31 17:05 UTC"
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M UTC", &utc);
  return text.data();
}

/// The directory's own name, of "." too.
std::string name_of(const fs::path& run) {
  auto path = fs::weakly_canonical(run);
  if (path.filename().empty()) path = path.parent_path();
  std::string storage;
  const auto name = path.filename().string();
  return std::string(models::text::valid_utf8(name, storage));
}

void check_is_run(const fs::path& run) {
  if (!fs::exists(run)) throw ConfigError(run.string() + ": no such directory");
  if (!fs::is_directory(run))
    throw ConfigError(run.string() + ": expected a run directory, found a file");
  if (fs::exists(run / kMetrics) || fs::exists(run / kCompletions)) return;
  throw ConfigError(run.string() + ": expected a run directory of `tailor train`, found neither " +
                    kMetrics + " nor " + kCompletions +
                    "; a job writes the first unless output.report_to leaves jsonl out");
}

}  // namespace

Report make_report(const fs::path& run, const ReportLimits& limits) {
  check_is_run(run);
  PageData data;
  data.name = name_of(run);
  data.written = now_text();
  data.job = read_job_facts(run / "config.yaml", data.notes);
  MetricsTable table;
  if (fs::exists(run / kMetrics)) {
    table = read_metrics(run / kMetrics, data.notes);
    if (table.steps.empty()) data.notes.push_back(std::string(kMetrics) + " has no step yet");
  } else {
    data.notes.push_back(std::string(kMetrics) + " is not there: nothing has a curve");
  }
  add_elapsed_s(table);
  data.totals = totals(table);
  data.curves = thinned(table, limits.max_points);
  data.histograms = thinned(std::move(table.histograms), limits.max_histograms);
  if (fs::exists(run / kCompletions))
    data.samples = read_samples(run / kCompletions, limits.samples, data.notes);
  data.adapter = read_adapter_facts(run / "adapter", data.notes);
  data.checkpoints = list_checkpoints(run / "checkpoints");

  Report report;
  report.html = page(data.name, page_json(data));
  report.totals = data.totals;
  if (data.samples) {
    report.num_samples = data.samples->total;
    report.num_samples_left_out = data.samples->num_left_out();
  }
  report.notes = std::move(data.notes);
  return report;
}

}  // namespace tailor::trainer
