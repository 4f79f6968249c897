#pragma once

#include <exception>
#include <string>

namespace tailor::trainer::cli {

/// What the user sees of an error, and how the program ends.
struct Failure {
  int code;          // 2 input, 3 numbers, 4 peers, 130 interrupted, 1 our own mistake
  std::string text;  // one or a few lines, without a stack trace
};
Failure explain(const std::exception_ptr& error);

/// --debug: an error that nobody catches prints its text, its type and where it was thrown, and
/// ends the process with its code.
void print_stack_traces();
bool stack_traces_wanted();

}  // namespace tailor::trainer::cli
