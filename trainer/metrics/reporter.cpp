#include "trainer/metrics/reporter.hpp"

#include <unistd.h>

#include <chrono>
#include <optional>
#include <system_error>

#include "configs/reader.hpp"
#include "trainer/metrics/jsonl_log.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/metrics/progress.hpp"
#include "trainer/metrics/tensorboard.hpp"
#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kRedrawS = 0.1;  // a bar that changes faster cannot be read
constexpr double kLineS = 1.0;    // and a file does not want more lines than this

}  // namespace

struct Reporter::Impl {
  explicit Impl(const ReporterOptions& given)
      : options(given),
        terminal(given.silent ? Terminal{} : stderr_terminal()),
        started(Clock::now()) {
    std::error_code error;
    std::filesystem::create_directories(options.dir, error);
    if (error)
      throw configs::ConfigError(options.dir.string() + ": cannot be made: " + error.message());
    last.step = options.resumed_step;
    if (options.jsonl) {
      jsonl.emplace(options.dir / "metrics.jsonl", options.resumed_step, options.curve,
                    !options.resumed_evaluation_due);
      curve = jsonl->kept_numbers();
    }
    if (options.tensorboard) tensorboard.emplace(options.dir / "tensorboard", options.resumed_step);
    draw(/*at_once=*/true);
  }

  Progress progress() const {
    Progress now;
    now.total_steps = options.total_steps;
    now.elapsed_s = std::chrono::duration<double>(Clock::now() - started).count();
    now.activity = activity;
    if (const auto done = last.step - options.resumed_step; done > 0)
      now.left_s = now.elapsed_s / static_cast<double>(done) *
                   static_cast<double>(options.total_steps - last.step);
    return now;
  }

  static bool due(const std::optional<Clock::time_point>& last_time, double interval_s) {
    return !last_time ||
           std::chrono::duration<double>(Clock::now() - *last_time).count() >= interval_s;
  }

  void draw(bool at_once) {
    if (!terminal.interactive || !(at_once || due(drawn, kRedrawS))) return;
    // The last column stays free: some terminals begin a new line behind it.
    set_status_line(bar_line(last, progress(), terminal_width(STDERR_FILENO) - 1, terminal));
    drawn = Clock::now();
  }

  void write(const std::vector<Metric>& metrics) {
    if (jsonl) jsonl->write(metrics);
    if (tensorboard) tensorboard->write(metrics);
  }

  ReporterOptions options;
  Terminal terminal;
  Clock::time_point started;
  std::optional<Clock::time_point> drawn, told;  // the bar, a line
  std::optional<JsonlLog> jsonl;
  std::optional<TensorboardLog> tensorboard;
  std::vector<double> curve;
  StepMetrics last;
  std::string activity;
};

Reporter::Reporter(const ReporterOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Reporter::~Reporter() { set_status_line(""); }

void Reporter::report(const StepMetrics& metrics) {
  auto& i = *impl_;
  i.last = metrics;
  i.activity.clear();
  const bool ends = metrics.step == i.options.total_steps;
  const bool logged = ends || metrics.logged || metrics.step % i.options.logging_steps == 0;
  if (logged) {
    const auto all = fields(metrics);
    i.write(all);
    if (const auto number = find_number(all, i.options.curve)) i.curve.push_back(*number);
  }
  i.draw(ends);
  if (!logged || !(ends || Impl::due(i.told, kLineS))) return;
  const auto line = plain_line(metrics, i.progress());
  if (i.terminal.interactive)
    log_to_file(LogLevel::Info, line);  // a terminal has the bar
  else
    log_info(line);
  i.told = Clock::now();
}

void Reporter::report(const EvalMetrics& metrics) { report(fields(metrics), eval_line(metrics)); }

void Reporter::report(const std::vector<Metric>& evaluation, const std::string& line) {
  impl_->write(evaluation);
  impl_->activity.clear();
  log_info(line);
  impl_->draw(/*at_once=*/true);
}

void Reporter::activity(const std::string& what) {
  impl_->activity = what;
  impl_->draw(/*at_once=*/true);
}

void Reporter::finish() {
  set_status_line("");
  const auto done = impl_->last.step - impl_->options.resumed_step;
  log_info(std::to_string(done) + (done == 1 ? " step in " : " steps in ") +
           duration_text(impl_->progress().elapsed_s));
}

const std::vector<double>& Reporter::curve() const { return impl_->curve; }

}  // namespace tailor::trainer
