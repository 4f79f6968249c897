#include "trainer/cli/written_model.hpp"

#include <system_error>

#include "configs/reader.hpp"

namespace tailor::trainer::cli {

void refuse_used(const std::filesystem::path& output) {
  std::error_code error;
  if (!std::filesystem::exists(output, error)) return;
  if (!std::filesystem::is_directory(output, error) || !std::filesystem::is_empty(output, error))
    throw configs::ConfigError("--output " + output.string() +
                               ": expected a new or empty directory, found one that is in use");
}

at::ScalarType written_dtype(const std::string& dtype, const models::TensorSource& tensors) {
  if (dtype == "float32") return at::kFloat;
  if (dtype == "bfloat16") return at::kBFloat16;
  for (const auto& entry : tensors.entries())
    if (entry.shape.size() == 2) return entry.dtype == "F32" ? at::kFloat : at::kBFloat16;
  return at::kFloat;
}

}  // namespace tailor::trainer::cli
