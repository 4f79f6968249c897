#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "models/files/file_error.hpp"
#include "models/files/tensor_source.hpp"

namespace tailor::models {

/// A metadata value. Arrays hold one kind of scalar; integers are widened.
struct GgufValue {
  using Array =
      std::variant<std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;
  std::variant<bool, std::int64_t, std::uint64_t, double, std::string, Array> value;
};

/// Header of a GGUF file, version 2 or 3
/// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), checked before anything is
/// allocated: counts against the bytes left, strings within the file, offsets aligned, tensors
/// inside the file and without overlap.
struct GgufHeader {
  struct Tensor : TensorEntry {
    std::uint32_t type;   // ggml_type
    std::uint64_t begin;  // bytes from the start of the file
  };
  std::uint32_t version;
  std::map<std::string, GgufValue> metadata;
  std::vector<Tensor> tensors;
};

GgufHeader parse_gguf(std::string_view bytes, const std::string& file);

/// Raw tensors under GGUF's own names, dequantised on reading (F32, F16, BF16, Q4_0, Q4_1, Q5_0,
/// Q5_1, Q8_0, Q4_K, Q5_K, Q6_K).
class GgufFile : public TensorSource {
 public:
  virtual const GgufHeader& header() const = 0;
};
std::shared_ptr<const GgufFile> open_gguf(const std::filesystem::path& file);

/// Dequantises `count` values (a whole number of blocks) of ggml type `type`.
void dequantize(std::uint32_t type, const void* blocks, std::int64_t count, float* out);

}  // namespace tailor::models
