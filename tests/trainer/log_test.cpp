#include "trainer/metrics/log.hpp"

#include <fcntl.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "trainer/metrics/reporter.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;

namespace {

/// What `run` writes to stderr in a process of its own, since the sink looks at stderr only once.
/// On a terminal of 90 columns, or into a pipe.
std::string stderr_of(bool terminal, const std::function<void()>& run) {
  int reading = -1, writing = -1;
  if (terminal) {
    winsize size{};
    size.ws_row = 24;
    size.ws_col = 90;
    REQUIRE(openpty(&reading, &writing, nullptr, nullptr, &size) == 0);
  } else {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    reading = ends[0];
    writing = ends[1];
  }
  const auto child = fork();
  if (child == 0) {
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", "C", 1);
    unsetenv("NO_COLOR");
    dup2(writing, STDERR_FILENO);
    close(reading);
    close(writing);
    run();
    std::exit(0);  // with what runs at exit
  }
  close(writing);
  std::string all;
  char block[4096];
  for (ssize_t n = 0; (n = read(reading, block, sizeof block)) > 0;)
    all.append(block, static_cast<std::size_t>(n));
  close(reading);
  waitpid(child, nullptr, 0);
  return all;
}

/// The screen's lines after the escapes that the program uses: CR, LF, erase to the end of the
/// line.
std::vector<std::string> screen(const std::string& bytes) {
  std::vector<std::string> lines(1);
  std::size_t column = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == '\r') {
      column = 0;
    } else if (bytes[i] == '\n') {
      lines.emplace_back();
      column = 0;
    } else if (bytes.compare(i, 3, "\033[K") == 0) {
      lines.back().resize(column);
      i += 2;
    } else if (bytes[i] == '\033') {
      i = bytes.find('m', i);
    } else {
      lines.back().resize(std::max(lines.back().size(), column + 1), ' ');
      lines.back()[column++] = bytes[i];
    }
  }
  return lines;
}

ReporterOptions options_of(const std::filesystem::path& dir) {
  ReporterOptions options;
  options.dir = dir;
  options.total_steps = 3;
  return options;
}

StepMetrics step_of(std::int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 0.5;
  return metrics;
}

class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("tailor-report-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& get() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("a line in a file begins with time and level", "[metrics]") {
  const auto text = stderr_of(false, [] {
    log_info("first {} %s");
    log_warn("second");
    log_error("third");
    set_status_line("never in a file");
  });
  std::string shape = text;
  std::replace_if(
      shape.begin(), shape.end(), [](unsigned char c) { return std::isdigit(c) != 0; }, 'd');
  const std::string time = "dddd-dd-dd dd:dd:dd.ddd ";
  CHECK(shape ==
        time + "info: first {} %s\n" + time + "warning: second\n" + time + "error: third\n");
}

TEST_CASE("what a message quotes cannot steer a terminal", "[metrics]") {
  const auto text = stderr_of(false, [] { log_info("a\033[2Jb\r\x07 \x7f\n\tc\u00e9"); });
  CHECK(text.find("a?[2Jb?? ?\n\tc\u00e9\n") != std::string::npos);
}

TEST_CASE("a level silences the lines below it", "[metrics]") {
  const auto text = stderr_of(true, [] {
    set_log_level(LogLevel::Warn);
    log_info("quiet");
    set_status_line("bar");
    log_warn("loud");
  });
  CHECK(screen(text) == std::vector<std::string>{"warning: loud", ""});
}

TEST_CASE("log lines scroll above the status line, which ends with a newline at exit",
          "[metrics]") {
  const auto text = stderr_of(true, [] {
    set_status_line("50% of a long line");
    log_info("note");
    log_warn("careful");
    set_status_line("60%");
  });
  CHECK(screen(text) == std::vector<std::string>{"note", "warning: careful", "60%", ""});
  CHECK(text.find("\033[?25l") == std::string::npos);  // the cursor is never hidden
}

TEST_CASE("a terminal shows the bar during a run and is clean after it", "[metrics]") {
  const TemporaryFolder folder;
  const auto text = stderr_of(true, [&] {
    Reporter reporter(options_of(folder.get()));
    for (std::int64_t step = 1; step <= 3; ++step) reporter.report(step_of(step));
    reporter.activity("saving");
    reporter.finish();
  });
  CHECK_THAT(text, Contains("0/3   0%") && Contains("3/3 100%") && Contains("saving"));
  CHECK(screen(text) == std::vector<std::string>{"3 steps in 0:00", ""});
}

TEST_CASE("a bar is taken away when an error ends the run", "[metrics]") {
  const TemporaryFolder folder;
  const auto text = stderr_of(true, [&] {
    try {
      Reporter reporter(options_of(folder.get()));
      reporter.report(step_of(1));
      throw std::runtime_error("broken");
    } catch (const std::runtime_error& error) {
      log_error(error.what());
    }
  });
  CHECK(screen(text) == std::vector<std::string>{"error: broken", ""});
}

TEST_CASE("a file gets plain lines, not one a step of a fast run, but always the last",
          "[metrics]") {
  const TemporaryFolder folder;
  const auto text = stderr_of(false, [&] {
    auto options = options_of(folder.get());
    options.total_steps = 1000;
    Reporter reporter(options);
    for (std::int64_t step = 1; step <= 1000; ++step) reporter.report(step_of(step));
    reporter.finish();
  });
  CHECK_THAT(text, Contains("step    1/1000 (0%)") && Contains("step 1000/1000 (100%)"));
  CHECK(std::count(text.begin(), text.end(), '\n') < 100);
  CHECK(text.find('\r') == std::string::npos);
  CHECK(text.find('\033') == std::string::npos);
}

TEST_CASE("every logged step is in metrics.jsonl, with the losses from before a resumption",
          "[metrics]") {
  const TemporaryFolder folder;
  stderr_of(false, [&] {
    auto options = options_of(folder.get());
    options.total_steps = 7;
    options.logging_steps = 2;
    {
      Reporter reporter(options);
      for (std::int64_t step = 1; step <= 5; ++step) reporter.report(step_of(step));
    }
    options.resumed_step = 3;
    Reporter reporter(options);
    if (reporter.curve().size() != 1) std::abort();
    for (std::int64_t step = 4; step <= 7; ++step) reporter.report(step_of(step));
    if (reporter.curve().size() != 4) std::abort();
  });
  std::ifstream file(folder.get() / "metrics.jsonl");
  std::vector<std::string> steps;
  for (std::string line; std::getline(file, line);) steps.push_back(line.substr(0, 10));
  CHECK(steps ==
        std::vector<std::string>{"{\"step\": 2", "{\"step\": 4", "{\"step\": 6", "{\"step\": 7"});
}

TEST_CASE("a log file has every line with its time, behind what it had before", "[metrics]") {
  const TemporaryFolder folder;
  const auto file = folder.get() / "logs" / "rank-1.log";
  for (const bool terminal : {true, false}) {
    const auto text = stderr_of(terminal, [&] {
      log_info("early");
      open_log_file(file);
      set_log_level(LogLevel::Error);
      log_info("note\033[2J");
      log_warn("careful");
      log_error("broken");
      log_to_file(LogLevel::Error, "told by another rank");
      set_status_line("never in a file");
      std::_Exit(0);  // as behind an error, without what runs at exit
    });
    CHECK_THAT(text, Contains("early") && Contains("broken"));
    CHECK_THAT(text, !Contains("note") && !Contains("careful") && !Contains("told by"));
  }
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    std::replace_if(
        line.begin(), line.end(), [](unsigned char c) { return std::isdigit(c) != 0; }, 'd');
    lines.push_back(line);
  }
  const std::string time = "dddd-dd-dd dd:dd:dd.ddd ";
  const std::vector<std::string> once = {time + "info: note?[dJ", time + "warning: careful",
                                         time + "error: broken",
                                         time + "error: told by another rank"};
  auto twice = once;
  twice.insert(twice.end(), once.begin(), once.end());
  CHECK(lines == twice);
}

TEST_CASE("a log file has the steps of a run whose terminal shows a bar", "[metrics]") {
  const TemporaryFolder folder;
  const auto file = folder.get() / "rank-0.log";
  const auto text = stderr_of(true, [&] {
    open_log_file(file);
    Reporter reporter(options_of(folder.get()));
    for (std::int64_t step = 1; step <= 3; ++step) reporter.report(step_of(step));
    reporter.finish();
  });
  CHECK_THAT(text, !Contains("step 1/3"));
  std::stringstream lines;
  lines << std::ifstream(file).rdbuf();
  CHECK_THAT(lines.str(),
             Contains("step 1/3") && Contains("step 3/3") && Contains("3 steps in 0:00"));
  CHECK(lines.str().find('\033') == std::string::npos);
}

TEST_CASE("a log file that cannot be opened is an error, one that cannot be written is not",
          "[metrics]") {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.get() / "rank-0.log");
  CHECK_THROWS_AS(open_log_file(folder.get() / "rank-0.log"), std::system_error);
  const auto text = stderr_of(false, [&] {
    open_log_file("/dev/full");
    log_info("goes on");
  });
  CHECK_THAT(text, Contains("goes on"));
}
