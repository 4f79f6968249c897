#include "models/files/safetensors.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "models/files/mapped_file.hpp"
#include "models/files/safetensors_dtype.hpp"

namespace tailor::models {
namespace {

/// memcpy by all threads: the cost is the page faults of both sides.
void copy_bytes(void* to, const char* from, std::int64_t size) {
  constexpr std::int64_t kGrainBytes = 1 << 20;
  at::parallel_for(0, size, kGrainBytes, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(static_cast<char*>(to) + begin, from + begin,
                static_cast<std::size_t>(end - begin));
  });
}

at::Tensor copy_of(const char* data, const TensorEntry& entry, at::ScalarType dtype) {
  at::Tensor tensor = at::empty(entry.shape, dtype);
  if (entry.num_bytes > 0) copy_bytes(tensor.mutable_data_ptr(), data, entry.num_bytes);
  return tensor;
}

class File : public SafetensorsFile {
 public:
  explicit File(const std::filesystem::path& path) : map_(path) {
    SafetensorsHeader header = parse_safetensors(map_.bytes(), map_.bytes().size(), map_.name());
    metadata_ = std::move(header.metadata);
    entries_.reserve(header.tensors.size());
    for (auto& tensor : header.tensors) {
      begins_.push_back(tensor.begin);
      index_.emplace(tensor.name, entries_.size());
      entries_.push_back(std::move(tensor));
    }
  }

  const std::vector<TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return index_.contains(name); }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }

  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    const std::size_t index = index_of(name);
    return read_bytes(entries_[index], begins_[index], dtype);
  }

  at::Tensor read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                        std::int64_t begin, std::int64_t length) const override {
    const std::size_t index = index_of(name);
    TensorEntry part = entries_[index];
    check_slice(part, dim, begin, length, map_.name());
    if (dim != 0) return part_of(index, dtype, {{dim, begin, length}});
    const std::int64_t row_bytes = part.shape[0] == 0 ? 0 : part.num_bytes / part.shape[0];
    part.shape[0] = length;
    part.num_bytes = length * row_bytes;
    return read_bytes(part, begins_[index] + static_cast<std::uint64_t>(begin * row_bytes), dtype);
  }

  at::Tensor read_part(const std::string& name, at::ScalarType dtype,
                       const std::vector<TensorRange>& ranges) const override {
    const std::size_t index = index_of(name);
    for (const auto& range : ranges)
      check_slice(entries_[index], range.dim, range.begin, range.length, map_.name());
    return part_of(index, dtype, ranges);
  }

 private:
  std::size_t index_of(const std::string& name) const {
    const auto found = index_.find(name);
    if (found == index_.end()) {
      throw FileError(map_.name() + ": tensor " + in_quotes(name) + ": not in the file");
    }
    return found->second;
  }

  at::ScalarType checked_dtype(const TensorEntry& entry, at::ScalarType dtype) const {
    const at::ScalarType stored = *dtype_named(entry.dtype);
    if (dtype != stored && !(at::isFloatingType(stored) && at::isFloatingType(dtype))) {
      throw FileError(map_.name() + ": tensor " + in_quotes(entry.name) +
                      ": expected a tensor of dtype " + std::string(dtype_word(dtype)) +
                      ", found " + entry.dtype);
    }
    return stored;
  }

  at::Tensor read_bytes(const TensorEntry& entry, std::uint64_t begin, at::ScalarType dtype) const {
    const at::ScalarType stored = checked_dtype(entry, dtype);
    at::Tensor tensor = convert(map_.bytes().data() + begin, entry, stored, dtype);
    map_.release(begin, static_cast<std::size_t>(entry.num_bytes));
    return tensor;
  }

  at::Tensor part_of(std::size_t index, at::ScalarType dtype,
                     const std::vector<TensorRange>& ranges) const {
    const TensorEntry& entry = entries_[index];
    const at::ScalarType stored = checked_dtype(entry, dtype);
    const char* data = map_.bytes().data() + begins_[index];
    const auto narrowed = [&](at::Tensor tensor) {
      for (const auto& range : ranges) tensor = tensor.narrow(range.dim, range.begin, range.length);
      return tensor;
    };
    const bool aligned = reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(stored) == 0;
    if (!aligned || entry.num_bytes == 0) {
      const at::Tensor part = narrowed(copy_of(data, entry, stored));
      return part.to(dtype).clone(at::MemoryFormat::Contiguous);
    }
    // Only read, and gone before the mapping is; only the pages of the part are touched.
    const at::Tensor part =
        narrowed(at::from_blob(const_cast<char*>(data), entry.shape, at::TensorOptions(stored)));
    at::Tensor result = at::empty(part.sizes(), dtype);
    result.copy_(part);
    map_.release(begins_[index], static_cast<std::size_t>(entry.num_bytes));
    return result;
  }

  static at::Tensor convert(const char* data, const TensorEntry& entry, at::ScalarType stored,
                            at::ScalarType dtype) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(stored) == 0;
    if (stored == dtype || !aligned || entry.num_bytes == 0) {
      return copy_of(data, entry, stored).to(dtype);
    }
    // Only read, and gone before the mapping is.
    return at::from_blob(const_cast<char*>(data), entry.shape, at::TensorOptions(stored)).to(dtype);
  }

  MappedFile map_;
  std::map<std::string, std::string> metadata_;
  std::vector<TensorEntry> entries_;
  std::vector<std::uint64_t> begins_;
  std::unordered_map<std::string, std::size_t> index_;
};

class Shards : public TensorSource {
 public:
  explicit Shards(const std::filesystem::path& index) : name_(index.string()) {
    std::map<std::string, std::shared_ptr<const TensorSource>> files;
    for (auto& [tensor, shard] : read_weight_map(index)) {
      auto& file = files[shard];
      if (!file) file = open_safetensors(index.parent_path() / shard);
      if (!file->contains(tensor)) {
        throw FileError(name_ + ": weight_map: tensor " + in_quotes(tensor) + " is not in " +
                        shard);
      }
      owners_.emplace(tensor, file);
    }
    for (const auto& [shard, file] : files) append_entries(shard, *file);
  }

  const std::vector<TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return owners_.contains(name); }

  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    return owner(name).read(name, dtype);
  }
  at::Tensor read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                        std::int64_t begin, std::int64_t length) const override {
    return owner(name).read_slice(name, dtype, dim, begin, length);
  }
  at::Tensor read_part(const std::string& name, at::ScalarType dtype,
                       const std::vector<TensorRange>& ranges) const override {
    return owner(name).read_part(name, dtype, ranges);
  }

 private:
  const TensorSource& owner(const std::string& name) const {
    const auto found = owners_.find(name);
    if (found == owners_.end()) {
      throw FileError(name_ + ": tensor " + in_quotes(name) + ": not in the index");
    }
    return *found->second;
  }

  void append_entries(const std::string& shard, const TensorSource& file) {
    for (const TensorEntry& entry : file.entries()) {
      const auto owner = owners_.find(entry.name);
      if (owner == owners_.end() || owner->second.get() != &file) {
        throw FileError(name_ + ": weight_map does not place tensor " + in_quotes(entry.name) +
                        " in " + shard + ", which holds it");
      }
      entries_.push_back(entry);
    }
  }

  std::map<std::string, std::string> read_weight_map(const std::filesystem::path& index) const {
    const auto json = nlohmann::json::parse(read_text_file(index), nullptr, false);
    if (json.is_discarded()) throw FileError(name_ + ": no JSON");
    const auto weights = json.is_object() ? json.find("weight_map") : json.end();
    if (weights == json.end() || !weights->is_object()) {
      throw FileError(name_ + ": weight_map: expected an object from tensor to file");
    }
    std::map<std::string, std::string> map;
    for (const auto& [tensor, shard] : weights->items()) {
      // A shard lies beside its index: a path could lead anywhere.
      if (!shard.is_string() ||
          shard.get_ref<const std::string&>().find('/') != std::string::npos) {
        throw FileError(name_ + ": weight_map: " + in_quotes(tensor) + ": expected a file name");
      }
      map.emplace(tensor, shard.get<std::string>());
    }
    return map;
  }

  std::string name_;
  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string, std::shared_ptr<const TensorSource>> owners_;
};

}  // namespace

std::shared_ptr<const SafetensorsFile> open_safetensors(const std::filesystem::path& file) {
  return std::make_shared<File>(file);
}

std::shared_ptr<const TensorSource> open_sharded_safetensors(const std::filesystem::path& index) {
  return std::make_shared<Shards>(index);
}

}  // namespace tailor::models
