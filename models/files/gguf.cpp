#include "models/files/gguf.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>

#include "models/files/ggml_type.hpp"
#include "models/files/mapped_file.hpp"

namespace tailor::models {
namespace {

/// To nearest, ties to even, as libtorch rounds; without a branch, so that the loop vectorises.
void round_to_bfloat16(const float* values, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    const std::uint32_t rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
    out[i] = static_cast<std::uint16_t>(is_nan ? 0x7fc0U : rounded);
  }
}

class File : public GgufFile {
 public:
  explicit File(const std::filesystem::path& path)
      : map_(path), header_(parse_gguf(map_.bytes(), map_.name())) {
    for (const auto& tensor : header_.tensors) {
      index_.emplace(tensor.name, entries_.size());
      entries_.push_back(tensor);
    }
  }

  const std::vector<TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return index_.contains(name); }
  const GgufHeader& header() const override { return header_; }

  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    const auto found = index_.find(name);
    const std::string place = map_.name() + ": tensor " + in_quotes(name) + ": ";
    if (found == index_.end()) throw FileError(place + "not in the file");
    if (!at::isFloatingType(dtype)) throw FileError(place + "is read as a floating dtype alone");
    const GgufHeader::Tensor& tensor = header_.tensors[found->second];
    const char* data = map_.bytes().data() + tensor.begin;
    at::Tensor out = at::empty(tensor.shape, dtype == at::kBFloat16 ? dtype : at::kFloat);
    try {
      // A single block first: inside parallel_for nothing may throw.
      std::array<float, 256> probe{};
      if (out.numel() > 0) dequantize(tensor.type, data, block_values(tensor), probe.data());
    } catch (const FileError& error) {
      throw FileError(place + error.what());
    }
    if (dtype == at::kBFloat16) {
      read_bfloat16(tensor, data, static_cast<std::uint16_t*>(out.mutable_data_ptr()));
    } else {
      read_float(tensor, data, out.mutable_data_ptr<float>());
    }
    map_.release(tensor.begin, static_cast<std::size_t>(tensor.num_bytes));
    return out.to(dtype);
  }

 private:
  static std::int64_t block_values(const GgufHeader::Tensor& tensor) {
    return find_ggml_type(tensor.type)->values;
  }

  /// Calls f(first value, number of values, blocks) for parts of whole blocks, on all threads.
  template <typename F>
  static void for_parts(const GgufHeader::Tensor& tensor, const char* data, const F& f) {
    constexpr std::int64_t kPartValues = 2048;  // their floats stay in the first-level cache
    constexpr std::int64_t kGrainParts = 16;
    const GgmlType& type = *find_ggml_type(tensor.type);
    const std::int64_t values = tensor.num_bytes / type.bytes * type.values;
    const std::int64_t parts = (values + kPartValues - 1) / kPartValues;
    at::parallel_for(0, parts, kGrainParts, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t first = part * kPartValues;
        f(first, std::min(kPartValues, values - first), data + first / type.values * type.bytes);
      }
    });
  }

  static void read_float(const GgufHeader::Tensor& tensor, const char* data, float* out) {
    for_parts(tensor, data, [&](std::int64_t first, std::int64_t count, const char* blocks) {
      dequantize(tensor.type, blocks, count, out + first);
    });
  }

  static void read_bfloat16(const GgufHeader::Tensor& tensor, const char* data,
                            std::uint16_t* out) {
    for_parts(tensor, data, [&](std::int64_t first, std::int64_t count, const char* blocks) {
      if (tensor.type == ggml::kBF16) {
        std::copy_n(blocks, count * 2, reinterpret_cast<char*>(out + first));
        return;
      }
      std::array<float, 2048> values;
      dequantize(tensor.type, blocks, count, values.data());
      round_to_bfloat16(values.data(), count, out + first);
    });
  }

  MappedFile map_;
  GgufHeader header_;
  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace

std::shared_ptr<const GgufFile> open_gguf(const std::filesystem::path& file) {
  return std::make_shared<File>(file);
}

}  // namespace tailor::models
