// The format: 8 bytes with the header's size (little endian), a JSON object, the tensors' bytes.
// https://huggingface.co/docs/safetensors
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "models/files/safetensors.hpp"
#include "models/files/safetensors_dtype.hpp"

namespace tailor::models {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kPrefixBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the published limit
constexpr std::size_t kMaxDimensions = 64;

/// Reads the header as it is parsed, so that no document of a hostile header's making is ever built
/// and a key given twice is seen.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  struct Entry {
    SafetensorsHeader::Tensor tensor;
    std::vector<std::uint64_t> offsets;
    bool has_dtype = false, has_shape = false;
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (place_ == Place::Start) return enter(Place::Root);
    if (place_ != Place::Name) refuse("an object");
    return enter(in_metadata_ ? Place::Metadata : Place::Tensor);
  }

  bool key(std::string& name) override {
    if (place_ == Place::Root) {
      in_metadata_ = name == "__metadata__";
      if (!names_.insert(name).second) fail(in_quotes(name) + " is given twice");
      if (!in_metadata_) entries.emplace_back().tensor.name = name;
      return enter(Place::Name);
    }
    key_ = name;
    if (place_ == Place::Metadata) {
      if (metadata.contains(name)) fail("metadata " + in_quotes(name) + " is given twice");
      return enter(Place::MetadataValue);
    }
    if (name == "dtype") return enter(Place::Dtype);
    if (name == "shape") return enter(Place::ShapeStart);
    if (name == "data_offsets") return enter(Place::OffsetsStart);
    fail_tensor("expected dtype, shape and data_offsets, found " + in_quotes(name));
  }

  bool end_object() override {
    if (place_ == Place::Metadata) return enter(Place::Root);
    if (place_ == Place::Root) return enter(Place::End);
    const Entry& entry = entries.back();
    if (!entry.has_dtype) fail_tensor("dtype is missing");
    if (!entry.has_shape) fail_tensor("shape is missing");
    if (entry.offsets.empty()) fail_tensor("data_offsets is missing");
    return enter(Place::Root);
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::ShapeStart) {
      if (std::exchange(entries.back().has_shape, true)) fail_tensor("shape is given twice");
      return enter(Place::Shape);
    }
    if (place_ != Place::OffsetsStart) refuse("a list");
    if (!entries.back().offsets.empty()) fail_tensor("data_offsets is given twice");
    return enter(Place::Offsets);
  }

  bool end_array() override {
    if (place_ == Place::Offsets && entries.back().offsets.size() != 2) {
      fail_tensor("data_offsets: expected two numbers");
    }
    return enter(Place::Tensor);
  }

  bool number_unsigned(std::uint64_t value) override {
    Entry* entry = entries.empty() ? nullptr : &entries.back();
    if (place_ == Place::Shape) {
      if (entry->tensor.shape.size() == kMaxDimensions) fail_tensor("shape: too many dimensions");
      if (value > std::uint64_t{1} << 62) {
        fail_tensor("shape: dimension " + std::to_string(value) + " is too large");
      }
      entry->tensor.shape.push_back(static_cast<std::int64_t>(value));
    } else if (place_ == Place::Offsets) {
      if (entry->offsets.size() == 2) fail_tensor("data_offsets: expected two numbers");
      entry->offsets.push_back(value);
    } else {
      refuse("a number");
    }
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::MetadataValue) {
      metadata.emplace(std::move(key_), std::move(value));
      return enter(Place::Metadata);
    }
    if (place_ != Place::Dtype) refuse("a text");
    Entry& entry = entries.back();
    if (std::exchange(entry.has_dtype, true)) fail_tensor("dtype is given twice");
    if (!dtype_named(value)) fail_tensor("dtype " + in_quotes(value) + " is not known");
    entry.tensor.dtype = std::move(value);
    return enter(Place::Tensor);
  }

  bool number_integer(std::int64_t value) override { refuse(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { refuse(text); }
  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool binary(Json::binary_t&) override { refuse("bytes"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // The library's own text repeats what it read, at any length. Its position counts from 1.
    fail("no JSON at byte " + std::to_string(kPrefixBytes + position - 1) + " (error " +
         std::to_string(error.id) + ")");
  }

 private:
  enum class Place {
    Start,
    Root,
    Name,
    Tensor,
    Dtype,
    ShapeStart,
    Shape,
    OffsetsStart,
    Offsets,
    Metadata,
    MetadataValue,
    End
  };

  bool enter(Place place) {
    place_ = place;
    return true;
  }

  [[noreturn]] void fail(const std::string& problem) const {
    throw FileError(file_ + ": safetensors header: " + problem);
  }
  [[noreturn]] void fail_tensor(const std::string& problem) const {
    fail("tensor " + in_quotes(entries.back().tensor.name) + ": " + problem);
  }
  [[noreturn]] void refuse(const std::string& found) const {
    switch (place_) {
      case Place::Start:
        fail("expected an object, found " + found);
      case Place::Name:
        if (in_metadata_) fail("__metadata__: expected an object, found " + found);
        fail_tensor("expected an object, found " + found);
      case Place::Dtype:
        fail_tensor("dtype: expected a text, found " + found);
      case Place::ShapeStart:
        fail_tensor("shape: expected a list, found " + found);
      case Place::Shape:
        fail_tensor("shape: expected a whole number >= 0, found " + found);
      case Place::OffsetsStart:
        fail_tensor("data_offsets: expected a list, found " + found);
      case Place::Offsets:
        fail_tensor("data_offsets: expected a whole number >= 0, found " + found);
      default:
        fail("metadata " + in_quotes(key_) + ": expected a text, found " + found);
    }
  }

  const std::string& file_;
  Place place_ = Place::Start;
  bool in_metadata_ = false;
  std::string key_;
  std::unordered_set<std::string> names_;
};

/// shape x dtype, or nothing where it overflows.
std::optional<std::uint64_t> bytes_of(const SafetensorsHeader::Tensor& tensor) {
  std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(*dtype_named(tensor.dtype)));
  bool empty = false;
  for (const std::int64_t size : tensor.shape) {
    empty |= size == 0;
    if (size != 0 && __builtin_mul_overflow(bytes, size, &bytes)) return {};
  }
  return empty ? 0 : static_cast<std::uint64_t>(bytes);
}

/// Fills begin and num_bytes.
void place_tensor(HeaderReader::Entry& entry, std::uint64_t data_begin, std::uint64_t data_bytes,
                  const std::string& file) {
  SafetensorsHeader::Tensor& tensor = entry.tensor;
  const auto fail = [&](const std::string& problem) {
    throw FileError(file + ": tensor " + in_quotes(tensor.name) + ": " + problem);
  };
  const std::uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  const std::string range = std::to_string(begin) + " to " + std::to_string(end);
  if (begin > end) fail("data_offsets " + range + " run backwards");
  if (end > data_bytes) {
    fail("data_offsets " + range + " reach beyond the file's " + std::to_string(data_bytes) +
         " bytes of data");
  }
  const auto bytes = bytes_of(tensor);
  if (!bytes) fail("the size of its shape overflows");
  if (*bytes != end - begin) {
    fail("shape and dtype need " + std::to_string(*bytes) + " bytes, data_offsets " + range +
         " hold " + std::to_string(end - begin));
  }
  tensor.begin = data_begin + begin;
  tensor.num_bytes = static_cast<std::int64_t>(*bytes);
}

void check_no_holes(const std::vector<SafetensorsHeader::Tensor>& tensors, std::uint64_t begin,
                    std::uint64_t file_bytes, const std::string& file) {
  std::uint64_t expected = begin;
  for (const auto& tensor : tensors) {
    if (tensor.begin != expected) {
      throw FileError(file + ": tensor " + in_quotes(tensor.name) + ": expected to begin at byte " +
                      std::to_string(expected - begin) + " of the data, found " +
                      std::to_string(tensor.begin - begin) +
                      (tensor.begin < expected ? " (overlaps the tensor before)" : " (a hole)"));
    }
    expected += static_cast<std::uint64_t>(tensor.num_bytes);
  }
  if (expected != file_bytes) {
    throw FileError(file + ": " + std::to_string(file_bytes - expected) +
                    " bytes after the last tensor belong to none");
  }
}

/// The JSON between the length prefix and the data.
std::string_view header_text(std::string_view head, std::uint64_t file_bytes,
                             const std::string& file) {
  if (head.size() < kPrefixBytes) {
    throw FileError(file + ": not a safetensors file: expected at least 8 bytes, found " +
                    std::to_string(head.size()));
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, head.data(), kPrefixBytes);
  if (header_bytes > kMaxHeaderBytes) {
    throw FileError(file + ": not a safetensors file: its header would have " +
                    std::to_string(header_bytes) + " bytes, the limit is " +
                    std::to_string(kMaxHeaderBytes));
  }
  if (header_bytes > file_bytes - kPrefixBytes || header_bytes > head.size() - kPrefixBytes) {
    throw FileError(file + ": truncated: a header of " + std::to_string(header_bytes) +
                    " bytes, but only " + std::to_string(file_bytes - kPrefixBytes) +
                    " bytes follow");
  }
  const std::string_view text = head.substr(kPrefixBytes, header_bytes);
  if (!text.starts_with('{')) {
    throw FileError(file + ": not a safetensors file: its header must begin with {");
  }
  return text;
}

}  // namespace

SafetensorsHeader parse_safetensors(std::string_view head, std::uint64_t file_bytes,
                                    const std::string& file) {
  const std::string_view text = header_text(head, file_bytes, file);
  HeaderReader reader(file);
  Json::sax_parse(text.begin(), text.end(), &reader);
  SafetensorsHeader header;
  header.metadata = std::move(reader.metadata);
  const std::uint64_t data_begin = kPrefixBytes + text.size();
  for (auto& entry : reader.entries) {
    place_tensor(entry, data_begin, file_bytes - data_begin, file);
    header.tensors.push_back(std::move(entry.tensor));
  }
  // An empty tensor begins where its successor does, and goes first.
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.num_bytes) < std::pair(b.begin, b.num_bytes);
  });
  check_no_holes(header.tensors, data_begin, file_bytes, file);
  return header;
}

}  // namespace tailor::models
