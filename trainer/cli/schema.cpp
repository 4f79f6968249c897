// tailor schema: the JSON Schema of the job file, for editors that check while one types.
#include <CLI/CLI.hpp>
#include <iostream>

#include "trainer/cli/commands.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer::cli {

void add_schema(CLI::App& app, Action& action) {
  auto* command =
      app.add_subcommand("schema", "Print the JSON Schema of the job file, for editors");
  command->callback([&action] {
    action = [] {
      std::cout << job_schema() << '\n';
      return 0;
    };
  });
}

}  // namespace tailor::trainer::cli
