#pragma once

#include <filesystem>
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

/// Lines below `level` are not written to stderr (--quiet: LogLevel::Warn). Info at the start.
void set_log_level(LogLevel level);

/// From here on every line, of whatever level, also goes to the end of `file`, with time and level.
/// It is there when log() returns, however the process ends. Makes the folder; once a process.
/// Throws std::system_error where the file cannot be opened; one that cannot be written later, as
/// on a full disk, ends no run.
void open_log_file(const std::filesystem::path& file);
/// To that file alone: what stderr gets otherwise, or from another rank. Nothing where none is
/// open.
void log_to_file(LogLevel level, std::string_view message);

/// The line that stays at the bottom of a terminal while log lines scroll above it; "" takes it
/// away. Nothing where stderr is no terminal. It must fit into the terminal's width.
void set_status_line(std::string line);

}  // namespace tailor::trainer
