#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "models/files/tensor_source.hpp"

namespace tailor::trainer::cli {

/// For commands that write a model, before their long part. Throws ConfigError where `output` is
/// there and is no empty directory.
void refuse_used(const std::filesystem::path& output);

/// --dtype of what is written, "float32", "bfloat16" or "auto": float32 matrices stay float32,
/// everything else (16-bit and quantised weights) becomes bfloat16.
at::ScalarType written_dtype(const std::string& dtype, const models::TensorSource& tensors);

}  // namespace tailor::trainer::cli
