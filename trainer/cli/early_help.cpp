#include "trainer/cli/early_help.hpp"

#include <unistd.h>

#include <initializer_list>

namespace tailor::trainer::cli {
namespace {

// Nothing of the C++ library has started here, nor has what the C library sets up for it: plain
// loops and system calls alone.

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

bool print(const char* text) {
  for (std::size_t left = length(text); left > 0;) {
    const auto count = write(STDOUT_FILENO, text, left);
    if (count <= 0) return false;
    text += count;
    left -= static_cast<std::size_t>(count);
  }
  return true;
}

/// Returns where main() has to do the work, that of telling what could not be printed included.
void answer(int argc, char** argv, char** environment) {
  if (argc < 2 || argc > 3 || may_be_rank(environment)) return;
  const char* command = argc == 3 ? argv[1] : "";
  for (std::size_t i = 0; i < kEarlyAnswerCount; ++i) {
    const auto& known = kEarlyAnswers[i];
    if (equal(known.command, command) && equal(known.option, argv[argc - 1]) && print(known.text))
      _exit(0);
  }
}

/// The dynamic linker calls what stands in this section before the constructors of any library.
[[gnu::section(".preinit_array"), gnu::used]] void (*const kAnswer)(int, char**, char**) = answer;

}  // namespace
}  // namespace tailor::trainer::cli
