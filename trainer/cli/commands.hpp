#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace tailor::trainer::cli {

/// What the chosen subcommand does; the answer is the exit code. Errors are exceptions: main()
/// turns them into text and code. A command writes its result to stdout (one JSON object with
/// --json) and everything else to stderr.
using Action = std::function<int()>;

/// Each adds one subcommand to the program and sets `action` when it is chosen.
void add_train(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_merge(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);
void add_init(CLI::App& app, Action& action);
void add_convert(CLI::App& app, Action& action);
void add_upcycle(CLI::App& app, Action& action);
void add_schema(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);

}  // namespace tailor::trainer::cli
