#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tailor::models {

/// One tensor as a file declares it.
struct TensorEntry {
  std::string name;                 // the file's own name
  std::string dtype;                // the file's own word: "BF16", "F32", "Q4_1", ...
  std::vector<std::int64_t> shape;  // row major: the last dimension is contiguous
  std::int64_t num_bytes;           // in the file
};

/// `length` entries of dimension `dim` from `begin`.
struct TensorRange {
  std::int64_t dim = 0, begin = 0, length = 0;
};

/// Tensors of one checkpoint, mapped into memory and read on demand. Thread-safe for reading.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::vector<TensorEntry>& entries() const = 0;  // in file order
  virtual bool contains(const std::string& name) const = 0;
  /// The whole tensor converted to `dtype` (kFloat or kBFloat16; integers only as they are stored),
  /// in memory of its own. Throws FileError for an unknown name.
  virtual at::Tensor read(const std::string& name, at::ScalarType dtype) const = 0;
  /// `length` entries of dimension `dim` from `begin`. A source that can reads no more than it has
  /// to; this one reads the whole tensor. Throws FileError for a range outside the tensor.
  virtual at::Tensor read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                                std::int64_t begin, std::int64_t length) const;
  /// What lies in every one of the ranges, which are of different dimensions.
  virtual at::Tensor read_part(const std::string& name, at::ScalarType dtype,
                               const std::vector<TensorRange>& ranges) const;
};

/// Throws FileError naming `file` unless the range lies within dimension `dim` of the tensor.
void check_slice(const TensorEntry& entry, std::int64_t dim, std::int64_t begin,
                 std::int64_t length, const std::string& file);

}  // namespace tailor::models
