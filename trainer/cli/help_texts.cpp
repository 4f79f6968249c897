// Prints early_help.hpp's table as C++: what the program says to --help and --version.
#include <CLI/CLI.hpp>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "trainer/cli/program.hpp"

namespace {

namespace cli = tailor::trainer::cli;

void print_answer(const std::string& command, const std::string& option) {
  CLI::App app;
  cli::Request request;
  cli::declare_program(app, request);
  std::vector<std::string> arguments{option};  // the last one first, as CLI11 takes them
  if (!command.empty()) arguments.push_back(command);
  std::ostringstream text;
  try {
    app.parse(std::move(arguments));
    throw std::logic_error("help_texts: " + option + " went on");
  } catch (const CLI::ParseError& error) {
    app.exit(error, text, std::cerr);
  }
  std::cout << "    {\"" << command << "\", \"" << option << "\",\n     R\"~~(" << text.str()
            << ")~~\"},\n";
}

}  // namespace

int main() {
  std::cout << "#include \"trainer/cli/early_help.hpp\"\n\n"
               "namespace tailor::trainer::cli {\n\n"
               "const EarlyAnswer kEarlyAnswers[] = {\n";
  print_answer("", "--version");
  CLI::App app;
  cli::Request request;
  cli::declare_program(app, request);
  for (const char* help : {"-h", "--help"}) {
    print_answer("", help);
    for (const auto* command : app.get_subcommands(/*filter=*/{}))
      print_answer(command->get_name(), help);
  }
  std::cout << "};\nconst std::size_t kEarlyAnswerCount = sizeof(kEarlyAnswers) / "
               "sizeof(EarlyAnswer);\n\n"
               "}  // namespace tailor::trainer::cli\n";
}
