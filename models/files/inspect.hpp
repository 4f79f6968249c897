#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/files/tensor_source.hpp"

namespace tailor::models {

/// What a model file or directory holds, read from headers alone.
struct Inspection {
  /// "safetensors", "sharded safetensors", "gguf", "hf directory", "peft adapter", "checkpoint"
  /// (an adapter with the state of its training) or "run directory" (whose final adapter, or else
  /// newest checkpoint, is shown).
  std::string kind;
  std::vector<TensorEntry> tensors;  // under the file's own names, in file order
  std::int64_t num_parameters = 0;   // values of all tensors
  std::int64_t num_bytes = 0;        // of all tensors
  /// A JSON object: metadata of the file, or the directory's JSON files by name. A list of more
  /// than 16 values is {"length": N, "first": [...]}.
  std::string metadata_json;
};

/// Throws FileError for what is none of these, or damaged.
Inspection inspect(const std::filesystem::path& path);

}  // namespace tailor::models
