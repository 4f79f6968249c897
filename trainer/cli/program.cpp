#include "trainer/cli/program.hpp"

#include <torch/headeronly/version.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "configs/reader.hpp"

namespace tailor::trainer::cli {
namespace {

std::vector<std::string> long_options(const CLI::App& app) {
  std::vector<std::string> out;
  for (const auto* option : app.get_options())
    for (const auto& name : option->get_lnames()) out.push_back("--" + name);
  return out;
}

/// Of the first option that nobody knows; "" where there is none among what was left over.
std::string told_of_unknown(const CLI::App& app, const CLI::App& command) {
  auto known = long_options(command);
  for (const auto& name : long_options(app)) known.push_back(name);
  for (const auto& word : app.remaining(/*recurse=*/true)) {
    if (!word.starts_with("--")) continue;
    const auto name = word.substr(0, word.find('='));
    if (std::ranges::find(known, name) != known.end())
      return name + ": expected behind the command `" + command.get_name() + '`';
    const auto near = configs::nearest(name, known);
    return "unknown option " + name + (near.empty() ? "" : "; did you mean " + near + '?');
  }
  return "";
}

/// The library's text of an error, or a better one where it leaves out what was expected.
std::string told(const CLI::App& app, const CLI::App& command, const CLI::Error& error) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
    if (auto text = told_of_unknown(app, command); !text.empty()) return text;
  const std::string text = error.what(), unread = "Could not convert: ";
  const auto equals = text.find(" = ");
  if (text.starts_with(unread) && equals != std::string::npos)
    return text.substr(unread.size(), equals - unread.size()) + ": expected a number, found " +
           text.substr(equals + 3);
  return text;
}

}  // namespace

void declare_program(CLI::App& app, Request& request) {
  app.name("tailor");
  app.description("Tailor trains LoRA adapters and runs models with them.");
  app.require_subcommand(1);
  app.set_version_flag("--version", "tailor " TAILOR_VERSION " (libtorch " TORCH_VERSION ")");
  app.failure_message([](const CLI::App* root, const CLI::Error& error) {
    std::string name;
    const auto* command = root;
    for (auto chosen = root->get_subcommands(); !chosen.empty();
         chosen = command->get_subcommands()) {  // a command may have commands: bench gemm
      command = chosen.front();
      name += command->get_name() + ' ';
    }
    return "error: " + told(*root, *command, error) + "\n`tailor " + name +
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
