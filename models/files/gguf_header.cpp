#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "models/files/ggml_type.hpp"
#include "models/files/gguf.hpp"

namespace tailor::models {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t kMaxDimensions = 4;         // GGML_MAX_DIMS
constexpr std::uint64_t kMaxArrayLength = 1 << 24;  // vocabularies have some 10^5 entries
constexpr std::uint64_t kMaxNameBytes = 65535;      // of a key; the format's limit
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMinPairBytes = 8 + 4 + 1;  // an empty key, its type, a byte
constexpr std::uint64_t kMinTensorBytes =
    8 + 4 + 4 + 8;  // an empty name, 0 dimensions, type, offset

enum class Kind : std::uint32_t {
  Uint8,
  Int8,
  Uint16,
  Int16,
  Uint32,
  Int32,
  Float32,
  Bool,
  String,
  Array,
  Uint64,
  Int64,
  Float64
};

/// Bytes of one value in the file; of a string at least its length. 0 for what is no kind.
std::uint64_t min_bytes(Kind kind) {
  switch (kind) {
    case Kind::Uint8:
    case Kind::Int8:
    case Kind::Bool:
      return 1;
    case Kind::Uint16:
    case Kind::Int16:
      return 2;
    case Kind::Uint32:
    case Kind::Int32:
    case Kind::Float32:
      return 4;
    case Kind::String:
    case Kind::Uint64:
    case Kind::Int64:
    case Kind::Float64:
      return 8;
    case Kind::Array:
      return 4 + 8;
  }
  return 0;
}

class HeaderParser {
 public:
  HeaderParser(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  GgufHeader parse() {
    GgufHeader header;
    header.version = read_version();
    place_ = "header";
    const auto num_tensors = scalar<std::uint64_t>();
    const auto num_pairs = scalar<std::uint64_t>();
    check_count("tensors", num_tensors, kMinTensorBytes);
    check_count("metadata pairs", num_pairs, kMinPairBytes);
    for (std::uint64_t i = 0; i < num_pairs; ++i) read_pair(header, i);
    const std::uint64_t alignment = alignment_of(header);
    std::set<std::string> names;
    for (std::uint64_t i = 0; i < num_tensors; ++i) {
      header.tensors.push_back(read_tensor(i, alignment));
      if (!names.insert(header.tensors.back().name).second) fail("the name is given twice");
    }
    place_tensors(header, alignment);
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw FileError(file_ + ": " + place_ + ": " + problem);
  }

  std::uint64_t left() const { return bytes_.size() - at_; }

  void need(std::uint64_t size) const {
    if (size > left()) {
      fail("truncated: expected " + std::to_string(size) + " bytes at byte " + std::to_string(at_) +
           ", found " + std::to_string(left()));
    }
  }

  template <typename T>
  T scalar() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::string text() {
    const auto size = scalar<std::uint64_t>();
    need(size);
    std::string value(bytes_.substr(at_, size));
    at_ += size;
    return value;
  }

  std::string name(const char* what, std::uint64_t index) {
    place_ = what + std::string(" ") + std::to_string(index);
    std::string value = text();
    if (value.size() > kMaxNameBytes) fail("a name of " + std::to_string(value.size()) + " bytes");
    place_ = what + std::string(" ") + in_quotes(value);
    return value;
  }

  void check_count(const char* what, std::uint64_t count, std::uint64_t bytes_each) const {
    if (count > left() / bytes_each) {
      fail(std::to_string(count) + " " + what + " do not fit into the " + std::to_string(left()) +
           " bytes that follow");
    }
  }

  std::uint32_t read_version() {
    place_ = "not a GGUF file";
    need(8);
    if (!bytes_.starts_with("GGUF")) fail("expected it to begin with GGUF");
    at_ = 4;
    const auto version = scalar<std::uint32_t>();
    place_ = "version";
    if (version == 2 || version == 3) return version;
    if ((version & 0xffff) == 0 && version != 0) fail("a big-endian file is not supported");
    fail("expected 2 or 3, found " + std::to_string(version));
  }

  Kind kind() {
    const auto value = scalar<std::uint32_t>();
    if (value > static_cast<std::uint32_t>(Kind::Float64)) {
      fail("value type " + std::to_string(value) + " is not known");
    }
    return static_cast<Kind>(value);
  }

  void read_pair(GgufHeader& header, std::uint64_t index) {
    std::string key = name("metadata", index);
    if (header.metadata.contains(key)) fail("the key is given twice");
    GgufValue value = read_value(kind());
    header.metadata.emplace(std::move(key), std::move(value));
  }

  GgufValue read_value(Kind kind) {
    switch (kind) {
      case Kind::Bool:
        return {truth()};
      case Kind::String:
        return {text()};
      case Kind::Array:
        return {read_array()};
      case Kind::Float32:
      case Kind::Float64:
        return {floating(kind)};
      case Kind::Int8:
      case Kind::Int16:
      case Kind::Int32:
      case Kind::Int64:
        return {integer(kind)};
      case Kind::Uint64:
        return {scalar<std::uint64_t>()};
      default:
        return {static_cast<std::uint64_t>(integer(kind))};
    }
  }

  bool truth() {
    const auto value = scalar<std::uint8_t>();
    if (value > 1) fail("expected a boolean, found byte " + std::to_string(value));
    return value == 1;
  }

  double floating(Kind kind) {
    return kind == Kind::Float32 ? static_cast<double>(scalar<float>()) : scalar<double>();
  }

  std::int64_t integer(Kind kind) {
    switch (kind) {
      case Kind::Bool:
        return truth() ? 1 : 0;
      case Kind::Uint8:
        return scalar<std::uint8_t>();
      case Kind::Int8:
        return scalar<std::int8_t>();
      case Kind::Uint16:
        return scalar<std::uint16_t>();
      case Kind::Int16:
        return scalar<std::int16_t>();
      case Kind::Uint32:
        return scalar<std::uint32_t>();
      case Kind::Int32:
        return scalar<std::int32_t>();
      default:
        break;
    }
    const auto value = scalar<std::int64_t>();
    if (kind == Kind::Uint64 && value < 0) fail("a number of the list is above 2^63 - 1");
    return value;
  }

  GgufValue::Array read_array() {
    const Kind element = kind();
    if (element == Kind::Array) fail("a list of lists is not supported");
    const auto length = scalar<std::uint64_t>();
    if (length > kMaxArrayLength) {
      fail("a list of " + std::to_string(length) + " values, the limit is " +
           std::to_string(kMaxArrayLength));
    }
    check_count("values of a list", length, min_bytes(element));
    if (element == Kind::String) {
      std::vector<std::string> values(length);
      for (std::string& value : values) value = text();
      return values;
    }
    if (element == Kind::Float32 || element == Kind::Float64) {
      std::vector<double> values(length);
      for (double& value : values) value = floating(element);
      return values;
    }
    std::vector<std::int64_t> values(length);
    for (std::int64_t& value : values) value = integer(element);
    return values;
  }

  std::uint64_t alignment_of(const GgufHeader& header) {
    const auto found = header.metadata.find("general.alignment");
    if (found == header.metadata.end()) return kDefaultAlignment;
    place_ = "metadata \"general.alignment\"";
    const auto* value = std::get_if<std::uint64_t>(&found->second.value);
    if (value == nullptr || !std::has_single_bit(*value) || *value > bytes_.size()) {
      fail("expected a power of two within the file");
    }
    return *value;
  }

  GgufHeader::Tensor read_tensor(std::uint64_t index, std::uint64_t alignment) {
    GgufHeader::Tensor tensor;
    tensor.name = name("tensor", index);
    const auto dimensions = scalar<std::uint32_t>();
    if (dimensions > kMaxDimensions)
      fail(std::to_string(dimensions) + " dimensions, the limit is 4");
    std::int64_t values = 1;
    bool empty = false;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto size = scalar<std::int64_t>();
      empty |= size == 0;
      if (size < 0 || (size > 0 && __builtin_mul_overflow(values, size, &values))) {
        fail("the size of its shape overflows");
      }
      tensor.shape.insert(tensor.shape.begin(), size);  // the file has the contiguous one first
    }
    if (empty) values = 0;
    tensor.type = scalar<std::uint32_t>();
    const GgmlType* type = find_ggml_type(tensor.type);
    if (type == nullptr) fail("type " + std::to_string(tensor.type) + " is not known");
    tensor.dtype = type->name;
    if ((tensor.shape.empty() ? 1 : tensor.shape.back()) % type->values != 0) {
      fail("rows of " + std::to_string(tensor.shape.empty() ? 1 : tensor.shape.back()) +
           " values are no multiple of the block of " + std::to_string(type->values) + " of " +
           tensor.dtype);
    }
    if (__builtin_mul_overflow(values / type->values, type->bytes, &tensor.num_bytes)) {
      fail("the size of its shape overflows");
    }
    tensor.begin = scalar<std::uint64_t>();  // from the start of the data, until place_tensors()
    if (tensor.begin % alignment != 0) {
      fail("offset " + std::to_string(tensor.begin) + " is no multiple of the alignment " +
           std::to_string(alignment));
    }
    return tensor;
  }

  void place_tensors(GgufHeader& header, std::uint64_t alignment) {
    const std::uint64_t padding = (alignment - at_ % alignment) % alignment;
    const std::uint64_t data = header.tensors.empty() ? at_ : at_ + padding;
    const std::uint64_t room = bytes_.size() > data ? bytes_.size() - data : 0;
    std::vector<const GgufHeader::Tensor*> order;
    for (auto& tensor : header.tensors) {
      place_ = "tensor " + in_quotes(tensor.name);
      if (tensor.begin > room ||
          static_cast<std::uint64_t>(tensor.num_bytes) > room - tensor.begin) {
        fail("truncated: its " + std::to_string(tensor.num_bytes) + " bytes at offset " +
             std::to_string(tensor.begin) + " reach beyond the " + std::to_string(room) +
             " bytes of data");
      }
      tensor.begin += data;
      order.push_back(&tensor);
    }
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return std::pair(a->begin, a->num_bytes) < std::pair(b->begin, b->num_bytes);
    });
    std::uint64_t end = 0;
    for (const auto* tensor : order) {
      if (tensor->num_bytes == 0) continue;
      place_ = "tensor " + in_quotes(tensor->name);
      if (tensor->begin < end) fail("overlaps another tensor");
      end = tensor->begin + static_cast<std::uint64_t>(tensor->num_bytes);
    }
  }

  std::string_view bytes_;
  const std::string& file_;
  std::uint64_t at_ = 0;
  std::string place_;  // what is being read, for messages
};

}  // namespace

GgufHeader parse_gguf(std::string_view bytes, const std::string& file) {
  return HeaderParser(bytes, file).parse();
}

}  // namespace tailor::models
