// tailor report: what became of a run, as one HTML page.
#include "trainer/report/report.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "configs/reader.hpp"
#include "models/files/durable_file.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/job_summary.hpp"
#include "trainer/metrics/log.hpp"

namespace tailor::trainer::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPageBegin = "<!doctype html>";

struct ReportOptions {
  std::string run, output;
  bool json = false;
};

void print_json(const Report& report, const fs::path& file) {
  const auto or_null = [](const auto& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  const nlohmann::ordered_json result = {{"report", file.string()},
                                         {"bytes", report.html.size()},
                                         {"steps", or_null(report.totals.steps)},
                                         {"loss", or_null(report.totals.last_loss)},
                                         {"reward", or_null(report.totals.last_reward)},
                                         {"samples", report.num_samples},
                                         {"samples_left_out", report.num_samples_left_out},
                                         {"notes", report.notes}};
  std::cout << result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
            << '\n';
}

/// Throws unless `file` is new or a page that was written before: a run's own files lie beside it.
void check_replaceable(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string begin(kPageBegin.size(), '\0');
  if (!fs::is_regular_file(file) || fs::file_size(file) == 0) return;
  if (!in.read(begin.data(), static_cast<std::streamsize>(begin.size())) || begin != kPageBegin)
    throw configs::ConfigError(file.string() +
                               ": expected a new file or a page of an earlier report, found "
                               "another file; it is left as it is");
}

int report_command(const ReportOptions& options) {
  const fs::path file =
      options.output.empty() ? fs::path(options.run) / "report.html" : fs::path(options.output);
  check_replaceable(file);
  const auto report = make_report(options.run);
  models::write_durable_file(file, report.html);
  for (const auto& note : report.notes) log_warn(note);
  if (options.json) {
    print_json(report, file);
  } else {
    std::cout << "wrote " << file.string() << " ("
              << counted(report.totals.steps.value_or(0), "step") << ", "
              << counted(report.num_samples, "sample") << ", " << (report.html.size() + 1023) / 1024
              << " KiB)\n";
  }
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  auto options = std::make_shared<ReportOptions>();
  auto* command =
      app.add_subcommand("report", "Write a page with curves, samples and settings of a run");
  command->add_option("run", options->run, "run directory (output.dir of the job)")->required();
  command->add_option("--output", options->output, "the page; RUN/report.html by default");
  command->add_flag("--json", options->json, "the result as one JSON object on stdout");
  command->callback(
      [options, &action] { action = [options] { return report_command(*options); }; });
}

}  // namespace tailor::trainer::cli
