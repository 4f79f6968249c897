#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/files/file_error.hpp"
#include "models/files/tensor_source.hpp"

namespace tailor::models {

/// The header of a safetensors file, checked: length prefix within the file and at most 100,000,000
/// bytes, JSON without duplicate keys, known dtypes, offsets in order without holes or overlaps,
/// byte counts equal to shape x dtype without overflow.
struct SafetensorsHeader {
  struct Tensor : TensorEntry {
    std::uint64_t begin;  // bytes from the start of the file
  };
  std::vector<Tensor> tensors;  // by offset
  std::map<std::string, std::string> metadata;
};

/// Parses the first bytes of a file of `file_bytes` bytes; `head` holds at least the whole header.
/// `file` is for messages. Throws FileError.
SafetensorsHeader parse_safetensors(std::string_view head, std::uint64_t file_bytes,
                                    const std::string& file);

/// One file. Also gives its metadata.
class SafetensorsFile : public TensorSource {
 public:
  virtual const std::map<std::string, std::string>& metadata() const = 0;
};
std::shared_ptr<const SafetensorsFile> open_safetensors(const std::filesystem::path& file);
/// model.safetensors.index.json: every tensor must lie in the shard that the index names.
std::shared_ptr<const TensorSource> open_sharded_safetensors(const std::filesystem::path& index);

/// Writes to a temporary name beside `file`, flushes it to disk and renames. Tensors in the given
/// order, but larger element sizes first, so that every tensor is aligned; contiguous copies are
/// made as needed. Throws std::system_error naming the file when the disk is full; then nothing is
/// left. Tensor by tensor: models/files/safetensors_writer.hpp.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace tailor::models
