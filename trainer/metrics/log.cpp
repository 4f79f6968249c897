#include "trainer/metrics/log.hpp"

#include <fcntl.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>

#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer {
namespace {

constexpr const char* kEraseLine = "\r\033[K";
constexpr const char* kTimedLine = "%Y-%m-%d %H:%M:%S.%e %l: %v";

void write_if_possible(int descriptor, const std::string& text) {
  try {
    write_all(descriptor, text);
  } catch (const std::system_error&) {
    // A closed stderr or a full disk must not end a run.
  }
}

/// Log lines and the status line share the terminal: a log line takes the place of the status line,
/// which is drawn again below it, in one write so that nothing flickers.
class StderrSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  StderrSink() : terminal_(stderr_terminal()) {
    if (!terminal_.interactive) set_pattern_(kTimedLine);
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
  static void write(const std::string& text) { write_if_possible(STDERR_FILENO, text); }

  Terminal terminal_;
  std::string status_;
};

/// Nothing until it is opened. Each line is one write, so that none is lost with the process.
class FileSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  FileSink() { set_pattern_(kTimedLine); }

  void open(const std::filesystem::path& file) {
    std::filesystem::create_directories(file.parent_path());
    const std::lock_guard lock(mutex_);
    descriptor_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (descriptor_ < 0)
      throw std::system_error(errno, std::generic_category(), file.string() + ": cannot be opened");
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (descriptor_ < 0) return;
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    write_if_possible(descriptor_, std::string(line.data(), line.size()));
  }
  void flush_() override {}

 private:
  int descriptor_ = -1;
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

FileSink& file_sink() {
  static auto& instance = *new FileSink;
  return instance;
}

spdlog::logger& logger() {
  const auto unowned = [](spdlog::sinks::sink& one) {
    return std::shared_ptr<spdlog::sinks::sink>(&one, [](spdlog::sinks::sink*) {});
  };
  static auto& instance = *new spdlog::logger("tailor", {unowned(sink()), unowned(file_sink())});
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
  sink().set_level(level_of(level));
  if (level != LogLevel::Info) sink().set_status("");
}

void open_log_file(const std::filesystem::path& file) { file_sink().open(file); }

void log_to_file(LogLevel level, std::string_view message) {
  const auto text = printable(std::string(message));
  file_sink().log(spdlog::details::log_msg(logger().name(), level_of(level),
                                           spdlog::string_view_t(text.data(), text.size())));
}

void set_status_line(std::string line) {
  if (line.empty() || sink().should_log(spdlog::level::info)) sink().set_status(std::move(line));
}

}  // namespace tailor::trainer
