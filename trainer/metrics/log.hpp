#pragma once

#include <string>
#include <string_view>

namespace tailor::trainer {

/// Text for people, on stderr: the only place that writes there besides main(). A line is plain on
/// a terminal and starts with time and level elsewhere. Thread-safe.
enum class LogLevel { Info, Warn, Error };
void log(LogLevel level, std::string_view message);
inline void log_info(std::string_view message) { log(LogLevel::Info, message); }
inline void log_warn(std::string_view message) { log(LogLevel::Warn, message); }
inline void log_error(std::string_view message) { log(LogLevel::Error, message); }

/// Lines below `level` are not written (--quiet: LogLevel::Warn). Info at the start.
void set_log_level(LogLevel level);

/// The line that stays at the bottom of a terminal while log lines scroll above it; "" takes it
/// away. Nothing where stderr is no terminal. It must fit into the terminal's width.
void set_status_line(std::string line);

}  // namespace tailor::trainer
