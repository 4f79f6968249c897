#include <malloc.h>
#include <torch/headeronly/version.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"
#include "distributed/mpi_runtime.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/errors.hpp"
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

void add_commands(CLI::App& app, cli::Action& action) {
  cli::add_train(app, action);
  cli::add_plan(app, action);
  cli::add_generate(app, action);
  cli::add_eval(app, action);
  cli::add_tokenize(app, action);
  cli::add_export(app, action);
  cli::add_merge(app, action);
  cli::add_inspect(app, action);
  cli::add_report(app, action);
  cli::add_init(app, action);
  cli::add_convert(app, action);
  cli::add_upcycle(app, action);
  cli::add_schema(app, action);
  cli::add_doctor(app, action);
  cli::add_bench(app, action);
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

  CLI::App app("Tailor trains LoRA adapters and runs models with them.", "tailor");
  app.require_subcommand(1);
  app.set_version_flag("--version", "tailor " TAILOR_VERSION " (libtorch " TORCH_VERSION ")");
  app.failure_message([](const CLI::App* command, const CLI::Error& error) {
    const auto chosen = command->get_subcommands();
    const auto name = chosen.empty() ? "" : chosen.front()->get_name() + " ";
    return std::string("error: ") + error.what() + "\n`tailor " + name +
           "--help` lists what it takes\n";
  });
  bool debug = false;
  app.add_flag("--debug", debug, "print a stack trace with an error");
  app.fallthrough();  // --debug may stand behind the command
  cli::Action action;
  add_commands(app, action);

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
  if (command != "train")
    action = [command, run = std::move(action)] {
      cli::refuse_several_ranks(command);
      return run();
    };
  if (debug) {
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
