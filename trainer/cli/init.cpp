// tailor init: a model of random weights from a config.json.
#include <CLI/CLI.hpp>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "models/families/random_model.hpp"
#include "models/files/mapped_file.hpp"
#include "trainer/cli/commands.hpp"

namespace tailor::trainer::cli {
namespace {

struct InitOptions {
  std::string config, output, dtype = "float32";
  std::uint64_t seed = 0;
  bool json = false;
};

int init(const InitOptions& options) {
  const auto config = models::read_text_file(options.config);
  const auto model = models::random_pretrained(config, options.config, options.seed);
  const auto dtype = options.dtype == "float32" ? at::kFloat : at::kBFloat16;
  models::write_hf_directory(model, options.output, dtype);
  std::int64_t num_bytes = 0;
  for (const auto& entry : model.tensors->entries()) num_bytes += entry.num_bytes;
  const auto num_parameters = num_bytes / 4;  // declared as float32
  std::cerr << "wrote " << num_parameters << " random parameters to " << options.output << '\n';
  if (options.json) {
    std::cout << nlohmann::ordered_json{{"output_dir", options.output},
                                        {"dtype", options.dtype},
                                        {"num_tensors", model.tensors->entries().size()},
                                        {"num_parameters", num_parameters}}
              << '\n';
  }
  return 0;
}

}  // namespace

void add_init(CLI::App& app, Action& action) {
  auto options = std::make_shared<InitOptions>();
  auto* command = app.add_subcommand(
      "init", "Make a model of random weights with a byte tokenizer, for tests and trial runs");
  command->add_option("--config", options->config, "a config.json of a supported family")
      ->required();
  command->add_option("--output", options->output, "HF directory to write; new or empty")
      ->required();
  command->add_option("--seed", options->seed, "of the weights")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "of the weights written")
      ->check(CLI::IsMember({"bfloat16", "float32"}))
      ->capture_default_str();
  command->add_flag("--json", options->json, "the result as one JSON object on stdout");
  command->callback([options, &action] { action = [options] { return init(*options); }; });
}

}  // namespace tailor::trainer::cli
