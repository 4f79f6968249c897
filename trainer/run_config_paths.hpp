#pragma once

#include <filesystem>
#include <string>

#include "configs/reader.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// What hinders reading a file that should hold something: "no such file: /data/trian.jsonl; did
/// you mean "train.jsonl"?", or "".
std::string file_problem(const std::filesystem::path& file);

/// What hinders opening a model: neither a folder with config.json nor a file; or "".
std::string model_problem(const std::filesystem::path& model);

/// What hinders opening a saved adapter, a folder with adapter_config.json; or "".
std::string adapter_problem(const std::filesystem::path& adapter);

/// What hinders writing into a folder that need not exist; or "".
std::string output_problem(const std::filesystem::path& folder);

/// How the paths of a job are read: where relative ones begin, and whether they are looked up.
struct PathBase {
  std::filesystem::path folder;
  Paths paths = Paths::Checked;
};

/// Reads the path `key`, resolves it against `base` and, where paths are checked, notes what
/// `problem_of` says of it. Required unless `optional`, then absent is "".
std::filesystem::path read_path(configs::Section& section, const std::string& key,
                                const PathBase& base,
                                std::string (*problem_of)(const std::filesystem::path&),
                                bool optional = false);

}  // namespace tailor::trainer
