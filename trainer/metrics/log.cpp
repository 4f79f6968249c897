#include "trainer/metrics/log.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>

#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer {
namespace {

constexpr const char* kEraseLine = "\r\033[K";

/// Log lines and the status line share the terminal: a log line takes the place of the status line,
/// which is drawn again below it, in one write so that nothing flickers.
class StderrSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  StderrSink() : terminal_(stderr_terminal()) {
    if (!terminal_.interactive) set_pattern_("%Y-%m-%d %H:%M:%S.%e %l: %v");
  }

  void set_status(std::string line) {
    const std::lock_guard lock(mutex_);
    if (!terminal_.interactive || line == status_) return;
    status_ = std::move(line);
    write(kEraseLine + status_);
  }

  void end_line() {  // at exit the status line stays, and the prompt comes below it
    const std::lock_guard lock(mutex_);
    if (!status_.empty()) write("\n");
    status_.clear();
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (!terminal_.interactive) {
      spdlog::memory_buf_t line;
      formatter_->format(message, line);
      write(std::string(line.data(), line.size()));
      return;
    }
    std::string text(message.payload.data(), message.payload.size());
    if (message.level >= spdlog::level::warn) {
      const bool error = message.level >= spdlog::level::err;
      const std::string word = error ? "error:" : "warning:";
      text = (terminal_.colour ? (error ? "\033[31m" : "\033[33m") + word + "\033[0m" : word) +
             " " + text;
    }
    write((status_.empty() ? "" : kEraseLine) + text + "\n" + status_);
  }
  void flush_() override {}

 private:
  static void write(const std::string& text) {
    try {
      write_all(STDERR_FILENO, text);
    } catch (const std::system_error&) {
      // A closed stderr must not end a run.
    }
  }

  Terminal terminal_;
  std::string status_;
};

/// Never destroyed: other objects may log while the program ends.
StderrSink& sink() {
  static auto& instance = []() -> StderrSink& {
    auto* made = new StderrSink;
    std::atexit([] { sink().end_line(); });
    return *made;
  }();
  return instance;
}

spdlog::logger& logger() {
  static auto& instance = *new spdlog::logger(
      "tailor", std::shared_ptr<spdlog::sinks::sink>(&sink(), [](spdlog::sinks::sink*) {}));
  return instance;
}

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::Info:
      return spdlog::level::info;
    case LogLevel::Warn:
      return spdlog::level::warn;
    case LogLevel::Error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void log(LogLevel level, std::string_view message) {
  const auto text = printable(std::string(message));
  logger().log(level_of(level), spdlog::string_view_t(text.data(), text.size()));
}

void set_log_level(LogLevel level) {
  logger().set_level(level_of(level));
  if (level != LogLevel::Info) sink().set_status("");
}

void set_status_line(std::string line) {
  if (line.empty() || logger().should_log(spdlog::level::info)) sink().set_status(std::move(line));
}

}  // namespace tailor::trainer
