#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "models/files/durable_file.hpp"

namespace tailor::models {

/// Writes a safetensors file tensor by tensor, so that only one need be in memory. The tensors are
/// planned first, because the header precedes them. The data lies in the order planned but for
/// larger element sizes, which go first: so every tensor is aligned, which HF's reader needs.
class SafetensorsWriter {
 public:
  struct Plan {
    std::string name;
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
  };
  /// Throws FileError for a name given twice, one that is not UTF-8 and a dtype that safetensors
  /// lacks; std::system_error where the disk refuses.
  SafetensorsWriter(const std::filesystem::path& file, const std::vector<Plan>& plans,
                    const std::map<std::string, std::string>& metadata);
  void write(const std::string& name, const at::Tensor& tensor);  // as planned, each once
  void commit();  // when all are written: the file appears

 private:
  struct Place {
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t begin;
    bool written = false;
  };
  DurableFile file_;
  std::unordered_map<std::string, Place> places_;
};

}  // namespace tailor::models
