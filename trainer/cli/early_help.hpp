#pragma once

#include <cstddef>

namespace tailor::trainer::cli {

/// --help and --version before the libraries start: libtorch registers thousands of operators
/// before main(), which takes half a second on a slow processor. The texts are those that main()
/// would print, written down by tailor_help_texts while the program is built.
struct EarlyAnswer {
  const char* command;  // empty: the program itself is asked
  const char* option;
  const char* text;
};
extern const EarlyAnswer kEarlyAnswers[];
extern const std::size_t kEarlyAnswerCount;

}  // namespace tailor::trainer::cli
