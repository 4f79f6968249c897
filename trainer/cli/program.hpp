#pragma once

#include "trainer/cli/commands.hpp"

namespace tailor::trainer::cli {

/// What the program is asked to do: `app.parse()` fills it in.
struct Request {
  Action action;
  bool debug = false;
};

/// Gives `app` its name, every command, --version and --debug. `request` stays where it is as long
/// as `app` lives.
void declare_program(CLI::App& app, Request& request);

}  // namespace tailor::trainer::cli
