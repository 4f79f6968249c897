#include "trainer/cli/early_help.hpp"

#include <unistd.h>

#include <initializer_list>

namespace tailor::trainer::cli {
namespace {

// No constructor has run here, and neither stdio nor `environ` is set up: plain loops and system
// calls alone.

std::size_t length(const char* text) {
  std::size_t count = 0;
  while (text[count] != '\0') ++count;
  return count;
}

bool begins(const char* text, const char* start) {
  while (*start != '\0' && *text == *start) ++text, ++start;
  return *start == '\0';
}

bool equal(const char* a, const char* b) { return begins(a, b) && begins(b, a); }

/// Of many ranks only the first prints: main() knows which that is.
bool may_be_rank(char** environment) {
  for (; *environment != nullptr; ++environment)
    for (const char* name : {"OMPI_", "PMIX_", "PMI_"})
      if (begins(*environment, name)) return true;
  return false;
}

/// Prints and ends; returns where nothing could be written.
void print_and_end(const char* text) {
  constexpr int kNotWritten = 2;
  const auto size = length(text);
  for (std::size_t written = 0; written < size;) {
    const auto count = write(STDOUT_FILENO, text + written, size - written);
    if (count <= 0 && written == 0) return;
    if (count <= 0) _exit(kNotWritten);
    written += static_cast<std::size_t>(count);
  }
  _exit(0);
}

/// Returns where main() has to do the work, that of telling what could not be printed included.
void answer(int argc, char** argv, char** environment) {
  if (argc < 2 || argc > 3 || may_be_rank(environment)) return;
  if (argc == 3 && argv[1][0] == '\0') return;  // an empty word, no command
  const char* command = argc == 3 ? argv[1] : "";
  for (std::size_t i = 0; i < kEarlyAnswerCount; ++i) {
    const auto& known = kEarlyAnswers[i];
    if (equal(known.command, command) && equal(known.option, argv[argc - 1]))
      print_and_end(known.text);
  }
}

/// The dynamic linker calls what stands in this section before the constructors of any library.
[[gnu::section(".preinit_array"), gnu::used]] void (*const kAnswer)(int, char**, char**) = answer;

}  // namespace
}  // namespace tailor::trainer::cli
