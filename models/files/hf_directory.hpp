#pragma once

#include <filesystem>
#include <memory>

#include "models/files/pretrained.hpp"

namespace tailor::models {

/// open_pretrained() for a HF directory. Throws FileError.
Pretrained open_hf_directory(const std::filesystem::path& directory);

/// model.safetensors, or the shards of model.safetensors.index.json. Throws FileError where there
/// is neither, saying what lies there instead.
std::shared_ptr<const TensorSource> open_hf_weights(const std::filesystem::path& directory);

}  // namespace tailor::models
