#include "trainer/cli/model_options.hpp"

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>

#include "configs/reader.hpp"

namespace tailor::trainer::cli {

ModelConfig ModelOptions::config() const {
  ModelConfig config;
  config.name_or_path = model;
  config.dtype = dtype;
  config.compute_dtype = compute_dtype;
  config.device = device;
  config.compute_dtype_place = "--compute-dtype";
  config.device_place = "--device";
  return config;
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  command.add_option("--model", options.model, "HF directory or GGUF file");
  command.add_option("--adapter", options.adapter, "adapter to run with: a PEFT folder");
  command.add_option("--dtype", options.dtype, "weights in memory: auto, bfloat16 or float32");
  command.add_option("--compute-dtype", options.compute_dtype,
                     "products: auto, bfloat16 or float32");
  command.add_option("--device", options.device, "auto, cpu or cuda");
  command.add_option("--threads", options.threads, "0: one a core");
}

void require_option(bool holds, const std::string& option, const std::string& expected,
                    const std::string& found) {
  if (!holds)
    throw configs::ConfigError(option + ": expected " + expected + ", found \"" + found + "\"");
}

void require_option(bool holds, const std::string& option, const std::string& expected,
                    double found) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.10g", found);
  if (!holds)
    throw configs::ConfigError(option + ": expected " + expected + ", found " + text.data());
}

void check(const ModelOptions& options) {
  const auto is_dtype = [](const std::string& word) {
    return word == "auto" || word == "bfloat16" || word == "float32";
  };
  constexpr auto kChoices = "auto, bfloat16 or float32";
  require_option(is_dtype(options.dtype), "--dtype", kChoices, options.dtype);
  require_option(is_dtype(options.compute_dtype), "--compute-dtype", kChoices,
                 options.compute_dtype);
  require_option(options.device == "auto" || options.device == "cpu" || options.device == "cuda",
                 "--device", "auto, cpu or cuda", options.device);
  require_option(options.threads >= 0 && options.threads <= 4096, "--threads", "0 to 4096",
                 static_cast<double>(options.threads));
}

}  // namespace tailor::trainer::cli
