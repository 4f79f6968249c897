#pragma once

#include <string>
#include <string_view>

namespace tailor::trainer {

/// What stderr is: a terminal on which lines can be redrawn, its width, and what it can show.
struct Terminal {
  bool interactive = false;  // a terminal, and TERM is not dumb
  bool colour = false;       // interactive, and NO_COLOR is not set (no-color.org)
  bool unicode = false;      // the locale's character set is UTF-8
};
Terminal stderr_terminal();
Terminal stdout_terminal();
int terminal_width(int descriptor);  // 80 where it does not say

/// A text that holds what files and users say: control characters, which would steer a terminal,
/// become '?', all but those `kept`.
std::string printable(std::string text, std::string_view kept = "\n\t");

/// Writes all of it or throws std::system_error; a signal in between does not cut it short.
void write_all(int descriptor, const std::string& bytes);

}  // namespace tailor::trainer
