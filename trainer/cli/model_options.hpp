#pragma once

#include <cstdint>
#include <string>

#include "trainer/cli/session.hpp"

namespace CLI {
class App;
}

namespace tailor::trainer::cli {

/// The options of commands that run a model: which one, with which adapter, and how.
struct ModelOptions {
  std::string model, adapter;
  std::string dtype = "auto", compute_dtype = "auto", device = "auto";
  std::int64_t threads = 0;

  ModelConfig config() const;
};

/// Adds --model, --adapter, --dtype, --compute-dtype, --device and --threads. `options` outlives
/// the parsing.
void add_model_options(CLI::App& command, ModelOptions& options);

/// Throws ConfigError "--option: expected ..., found ...", the value printed as a person writes it,
/// where `holds` is false.
void require_option(bool holds, const std::string& option, const std::string& expected,
                    const std::string& found);
void require_option(bool holds, const std::string& option, const std::string& expected,
                    double found);

/// Values that no model takes, and the choices. Throws ConfigError.
void check(const ModelOptions& options);

}  // namespace tailor::trainer::cli
