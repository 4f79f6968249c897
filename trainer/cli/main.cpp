#include <malloc.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"
#include "distributed/mpi_runtime.hpp"
#include "trainer/cli/errors.hpp"
#include "trainer/cli/program.hpp"
#include "trainer/cli/ranks.hpp"

namespace {

namespace cli = tailor::trainer::cli;

/// glibc gives large blocks back to the system and takes page faults on getting them again, which
/// costs more than the arithmetic in between.
void keep_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
}

/// The first argument is no command: says which one may have been meant.
bool is_unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return false;
  const std::string word = argv[1];
  std::vector<std::string> known;
  for (const auto* command : app.get_subcommands(/*filter=*/{}))
    known.push_back(command->get_name());
  for (const auto& name : known)
    if (name == word) return false;
  const auto near = tailor::configs::nearest(word, known);
  std::cerr << "error: unknown command \"" << word << "\""
            << (near.empty() ? "" : "; did you mean \"" + near + "\"?")
            << "\n`tailor --help` lists the commands\n";
  return true;
}

/// `code`, or that of a failure where what was printed has not arrived: a full disk, for example.
int once_written(int code) {
  std::cout.flush();
  if (std::cout && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::cerr << "error: stdout: what was to be printed could not be written\n";
  return code == 0 ? 2 : code;
}

}  // namespace

int main(int argc, char** argv) {
  keep_memory();
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is a failed write, not the end

  CLI::App app;
  cli::Request request;
  cli::declare_program(app, request);
  constexpr int kUsage = 2;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = error.get_exit_code() == 0 ? 0 : kUsage;  // 0: --help and --version
    if (tailor::distributed::launcher_rank() > 0) {  // the first process prints, and ends the job
      if (code != 0) cli::wait_to_be_ended(code);
    } else if (!is_unknown_command(app, argc, argv)) {
      app.exit(error);
    }
    return once_written(code);
  }
  const auto command = app.get_subcommands().front()->get_name();
  auto action = std::move(request.action);
  if (command != "train")
    action = [command, run = std::move(action)] {
      cli::refuse_several_ranks(command);
      return run();
    };
  if (request.debug) {
    cli::print_stack_traces();
    return once_written(action());
  }
  try {
    return once_written(action());
  } catch (const cli::Silent& silent) {
    cli::wait_to_be_ended(silent.exit_code);  // by the rank that prints the error
    return silent.exit_code;
  } catch (...) {
    const auto failure = cli::explain(std::current_exception());
    cli::tell_and_end(failure);
    return failure.code;
  }
}
