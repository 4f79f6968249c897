#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "models/families/causal_lm.hpp"
#include "models/files/pretrained.hpp"
#include "peft/adapter_file.hpp"
#include "peft/gguf_adapter.hpp"
#include "trainer/cli/commands.hpp"

namespace tailor::trainer::cli {
namespace {

namespace fs = std::filesystem;

struct ExportOptions {
  std::string adapter, to, output, model, experts = "per-expert";
  bool json = false;
};

/// Experts of a fused adapter are called what the family calls them where --model tells which.
peft::AdapterFiles read_files(const ExportOptions& options) {
  if (options.model.empty() || options.to == "gguf") return peft::read_adapter(options.adapter);
  const auto base = models::open_pretrained(options.model);
  const auto model = models::make_causal_lm(base.config_json, base.config_file);
  return peft::read_adapter(options.adapter, model->shape().model_type);
}

void export_peft(const peft::AdapterFiles& files, const fs::path& output, bool fused) {
  std::error_code error;
  if (fs::exists(output, error) &&
      (!fs::is_directory(output, error) || !fs::is_empty(output, error)))
    throw configs::ConfigError("--output " + output.string() +
                               ": expected a new or empty directory, found one that is in use");
  peft::write_adapter(fused ? peft::with_fused_experts(files) : files, output);
}

void export_gguf(const peft::AdapterFiles& files, const ExportOptions& options) {
  std::error_code error;
  if (fs::exists(options.output, error))
    throw configs::ConfigError("--output " + options.output +
                               ": expected a new file, found one that exists");
  const auto model = options.model.empty() ? files.base_model_name_or_path : options.model;
  if (model.empty() || !fs::exists(model, error))
    throw configs::ConfigError(
        "--model: GGUF needs the base model's configuration; the adapter's "
        "base_model_name_or_path is \"" +
        model + "\", which is not here");
  const auto pretrained = models::open_pretrained(model);
  peft::write_gguf_adapter(
      files, peft::read_gguf_base(pretrained.config_json, pretrained.config_file), options.output);
}

int export_adapter(const ExportOptions& options) {
  const auto files = read_files(options);
  if (options.to == "gguf") {
    export_gguf(files, options);
  } else {
    export_peft(files, options.output, options.experts == "fused");
  }
  const auto num_layers = files.config.target_modules.size();
  if (options.json) {
    std::cout << nlohmann::ordered_json{{"output", options.output},
                                        {"format", options.to},
                                        {"num_layers", num_layers}}
              << '\n';
  } else {
    std::cout << "wrote " << options.output << " (" << options.to << ", " << num_layers
              << " layers)\n";
  }
  return 0;
}

}  // namespace

void add_export(CLI::App& app, Action& action) {
  auto options = std::make_shared<ExportOptions>();
  auto* command = app.add_subcommand("export", "Write an adapter in another program's format");
  command->add_option("adapter", options->adapter, "PEFT folder, checkpoint or run directory")
      ->required();
  command->add_option("--to", options->to, "peft: a clean PEFT folder; gguf: a file for llama.cpp")
      ->check(CLI::IsMember({"peft", "gguf"}))
      ->required();
  command->add_option("--output", options->output, "what to write; must not exist yet")->required();
  command->add_option("--model", options->model,
                      "the base model: of gguf, the adapter's own where it is not given; of peft, "
                      "where experts come in the fused form and are Mixtral's");
  command
      ->add_option("--experts", options->experts,
                   "factors of routed experts (peft): per-expert keys, or fused, which PEFT loads "
                   "on models of transformers 5")
      ->check(CLI::IsMember({"per-expert", "fused"}));
  command->add_flag("--json", options->json, "the result as one JSON object on stdout");
  command->callback(
      [options, &action] { action = [options] { return export_adapter(*options); }; });
}

}  // namespace tailor::trainer::cli
