#include "trainer/cli/program.hpp"

#include <torch/headeronly/version.h>

#include <CLI/CLI.hpp>
#include <string>

namespace tailor::trainer::cli {

void declare_program(CLI::App& app, Request& request) {
  app.name("tailor");
  app.description("Tailor trains LoRA adapters and runs models with them.");
  app.require_subcommand(1);
  app.set_version_flag("--version", "tailor " TAILOR_VERSION " (libtorch " TORCH_VERSION ")");
  app.failure_message([](const CLI::App* command, const CLI::Error& error) {
    const auto chosen = command->get_subcommands();
    const auto name = chosen.empty() ? "" : chosen.front()->get_name() + " ";
    return std::string("error: ") + error.what() + "\n`tailor " + name +
           "--help` lists what it takes\n";
  });
  app.add_flag("--debug", request.debug, "print a stack trace with an error");
  app.fallthrough();  // --debug may stand behind the command
  add_train(app, request.action);
  add_plan(app, request.action);
  add_generate(app, request.action);
  add_eval(app, request.action);
  add_tokenize(app, request.action);
  add_export(app, request.action);
  add_merge(app, request.action);
  add_inspect(app, request.action);
  add_report(app, request.action);
  add_init(app, request.action);
  add_convert(app, request.action);
  add_upcycle(app, request.action);
  add_schema(app, request.action);
  add_doctor(app, request.action);
  add_bench(app, request.action);
}

}  // namespace tailor::trainer::cli
