// tailor convert: a GGUF file into a HF directory.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "models/files/pretrained.hpp"
#include "trainer/cli/commands.hpp"

namespace tailor::trainer::cli {
namespace {

struct ConvertOptions {
  std::string source, directory, dtype = "bfloat16";
  bool json = false;
};

at::ScalarType dtype_named(const std::string& name) {
  if (name == "float32") return at::kFloat;
  return name == "float16" ? at::kHalf : at::kBFloat16;
}

int convert_command(const ConvertOptions& options) {
  const models::Pretrained model = models::open_pretrained(options.source);
  std::cerr << "converting " << options.source << " to " << options.directory << " ("
            << model.tensors->entries().size() << " tensors as " << options.dtype << ")\n";
  models::write_hf_directory(model, options.directory, dtype_named(options.dtype));
  if (options.json) {
    std::cout << nlohmann::ordered_json{{"output_dir", options.directory},
                                        {"dtype", options.dtype},
                                        {"num_tensors", model.tensors->entries().size()}}
              << '\n';
  }
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, Action& action) {
  auto* command =
      app.add_subcommand("convert", "Turn a GGUF file into a HF directory that transformers loads");
  auto options = std::make_shared<ConvertOptions>();
  command->add_option("gguf", options->source, "GGUF file (or a HF directory, to change its dtype)")
      ->required();
  command->add_option("directory", options->directory, "a new or empty directory")->required();
  command->add_option("--dtype", options->dtype, "dtype of the weights")
      ->check(CLI::IsMember({"bfloat16", "float16", "float32"}))
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object at the end");
  command->callback(
      [options, &action] { action = [options] { return convert_command(*options); }; });
}

}  // namespace tailor::trainer::cli
