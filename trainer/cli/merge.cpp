#include "peft/merge.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "models/families/causal_lm.hpp"
#include "models/files/pretrained.hpp"
#include "peft/adapter_file.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/cli/written_model.hpp"

namespace tailor::trainer::cli {
namespace {

namespace fs = std::filesystem;

struct MergeOptions {
  std::string model, adapter, output, dtype = "auto";
  bool json = false;
};

int merge(const MergeOptions& options) {
  refuse_used(options.output);
  auto pretrained = models::open_pretrained(options.model);
  // Without weights: the checkpoint is read once, while it is written.
  const auto model = models::make_causal_lm(pretrained.config_json, pretrained.config_file);
  const auto adapter = seat_saved_adapter(*model, options.adapter);
  const auto dtype = written_dtype(options.dtype, *pretrained.tensors);
  const auto merged = std::make_shared<const peft::MergedTensors>(pretrained.tensors, *adapter);
  pretrained.tensors = merged;
  models::write_hf_directory(pretrained, options.output, dtype);

  const auto report = merged->report();
  const std::string dtype_name = dtype == at::kFloat ? "float32" : "bfloat16";
  if (options.json) {
    std::cout << nlohmann::ordered_json{{"output_dir", options.output},
                                        {"dtype", dtype_name},
                                        {"num_layers", report.num_layers},
                                        {"delta_norm", report.delta_norm},
                                        {"applied_share", report.applied_share()},
                                        {"max_rounding_error", report.max_rounding_error}}
              << '\n';
  } else {
    std::cout << "merged " << report.num_layers << " layers into " << options.output << " ("
              << dtype_name << ")\n"
              << "|W_merged - W| / |s B A| = " << std::setprecision(6) << report.applied_share()
              << ", largest rounding error " << report.max_rounding_error << '\n';
  }
  return 0;
}

}  // namespace

void add_merge(CLI::App& app, Action& action) {
  auto options = std::make_shared<MergeOptions>();
  auto* command = app.add_subcommand("merge", "Add an adapter to its model's weights");
  command->add_option("--model", options->model, "HF directory or GGUF file")->required();
  command->add_option("--adapter", options->adapter, "PEFT folder, checkpoint or run directory")
      ->required();
  command->add_option("--output", options->output, "HF directory to write; new or empty")
      ->required();
  command
      ->add_option("--dtype", options->dtype,
                   "of the weights written; auto: float32 stays, else bfloat16")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->capture_default_str();
  command->add_flag("--json", options->json, "the result as one JSON object on stdout");
  command->callback([options, &action] { action = [options] { return merge(*options); }; });
}

}  // namespace tailor::trainer::cli
