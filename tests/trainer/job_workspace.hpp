// A job file in a folder that has what it names.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// A folder with what a job needs, gone at the end.
struct Workspace {
  std::filesystem::path dir =
      std::filesystem::temp_directory_path() / ("tailor_run_config_" + std::to_string(::getpid()));

  Workspace() {
    std::filesystem::remove_all(dir);
    for (const auto* folder : {"model", "adapter", "empty"})
      std::filesystem::create_directories(dir / folder);
    write("train.jsonl", "{}\n");
    write("test.jsonl", "{}\n");
    write("nothing.jsonl", "");
    write("model/config.json", "{}");
    write("adapter/adapter_config.json", "{}");
  }
  ~Workspace() { std::filesystem::remove_all(dir); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(dir / name) << text;
  }
  RunConfig read(const std::string& text, const std::vector<std::string>& overrides = {}) const {
    return parse_run_config(text, dir / "job.yaml", overrides);
  }
  /// The problems of a job, without the folder's name.
  std::string errors(const std::string& text,
                     const std::vector<std::string>& overrides = {}) const {
    try {
      read(text, overrides);
    } catch (const configs::ConfigError& e) {
      return relative(e.what());
    }
    return "";
  }
  std::string relative(std::string text) const {
    const auto prefix = dir.string() + '/';
    for (auto at = text.find(prefix); at != std::string::npos; at = text.find(prefix))
      text.erase(at, prefix.size());
    return text;
  }
};

inline const std::string kSmall =
    "model: {name_or_path: model}\n"
    "data: {train: [{path: train.jsonl}]}\n"
    "output: {dir: run}\n";

/// A GRPO job of as little.
inline const std::string kGrpo = "task: grpo\n" + kSmall + "rewards: [{name: numeric_answer}]\n";

}  // namespace tailor::trainer
