#include <algorithm>
#include <bit>
#include <set>
#include <string>
#include <utility>

#include "models/files/ggml_type.hpp"
#include "models/files/gguf.hpp"
#include "models/files/gguf_reader.hpp"

namespace tailor::models {
namespace {

constexpr std::uint32_t kMaxDimensions = 4;     // GGML_MAX_DIMS
constexpr std::uint64_t kMaxNameBytes = 65535;  // of a key; the format's limit
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMinPairBytes = 8 + 4 + 1;  // an empty key, its type, a byte
constexpr std::uint64_t kMinTensorBytes =
    8 + 4 + 4 + 8;  // an empty name, 0 dimensions, type, offset

class HeaderParser {
 public:
  HeaderParser(std::string_view bytes, const std::string& file) : bytes_(bytes), in_(bytes, file) {}

  GgufHeader parse() {
    GgufHeader header;
    header.version = read_version();
    in_.place = "header";
    const auto num_tensors = in_.scalar<std::uint64_t>();
    const auto num_pairs = in_.scalar<std::uint64_t>();
    in_.check_count("tensors", num_tensors, kMinTensorBytes);
    in_.check_count("metadata pairs", num_pairs, kMinPairBytes);
    for (std::uint64_t i = 0; i < num_pairs; ++i) read_pair(header, i);
    const std::uint64_t alignment = alignment_of(header);
    std::set<std::string> names;
    for (std::uint64_t i = 0; i < num_tensors; ++i) {
      header.tensors.push_back(read_tensor(i, alignment));
      if (!names.insert(header.tensors.back().name).second) in_.fail("the name is given twice");
    }
    place_tensors(header, alignment);
    return header;
  }

 private:
  std::string name(const char* what, std::uint64_t index) {
    in_.place = what + std::string(" ") + std::to_string(index);
    std::string value = in_.text();
    if (value.size() > kMaxNameBytes) {
      in_.fail("a name of " + std::to_string(value.size()) + " bytes");
    }
    in_.place = what + std::string(" ") + in_quotes(value);
    return value;
  }

  std::uint32_t read_version() {
    in_.place = "not a GGUF file";
    in_.need(8);
    if (!bytes_.starts_with("GGUF")) in_.fail("expected it to begin with GGUF");
    in_.scalar<std::uint32_t>();
    const auto version = in_.scalar<std::uint32_t>();
    in_.place = "version";
    if (version == 2 || version == 3) return version;
    if ((version & 0xffff) == 0 && version != 0) in_.fail("a big-endian file is not supported");
    in_.fail("expected 2 or 3, found " + std::to_string(version));
  }

  void read_pair(GgufHeader& header, std::uint64_t index) {
    std::string key = name("metadata", index);
    if (header.metadata.contains(key)) in_.fail("the key is given twice");
    GgufValue value = in_.value();
    header.metadata.emplace(std::move(key), std::move(value));
  }

  std::uint64_t alignment_of(const GgufHeader& header) {
    const auto found = header.metadata.find("general.alignment");
    if (found == header.metadata.end()) return kDefaultAlignment;
    in_.place = "metadata \"general.alignment\"";
    const auto* value = std::get_if<std::uint64_t>(&found->second.value);
    if (value == nullptr || !std::has_single_bit(*value) || *value > bytes_.size()) {
      in_.fail("expected a power of two within the file");
    }
    return *value;
  }

  GgufHeader::Tensor read_tensor(std::uint64_t index, std::uint64_t alignment) {
    GgufHeader::Tensor tensor;
    tensor.name = name("tensor", index);
    const auto dimensions = in_.scalar<std::uint32_t>();
    if (dimensions > kMaxDimensions)
      in_.fail(std::to_string(dimensions) + " dimensions, the limit is 4");
    std::int64_t values = 1;
    bool empty = false;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto size = in_.scalar<std::int64_t>();
      empty |= size == 0;
      if (size < 0 || (size > 0 && __builtin_mul_overflow(values, size, &values))) {
        in_.fail("the size of its shape overflows");
      }
      tensor.shape.insert(tensor.shape.begin(), size);  // the file has the contiguous one first
    }
    if (empty) values = 0;
    tensor.type = in_.scalar<std::uint32_t>();
    const GgmlType* type = find_ggml_type(tensor.type);
    if (type == nullptr) in_.fail("type " + std::to_string(tensor.type) + " is not known");
    tensor.dtype = type->name;
    if ((tensor.shape.empty() ? 1 : tensor.shape.back()) % type->values != 0) {
      in_.fail("rows of " + std::to_string(tensor.shape.empty() ? 1 : tensor.shape.back()) +
               " values are no multiple of the block of " + std::to_string(type->values) + " of " +
               tensor.dtype);
    }
    if (__builtin_mul_overflow(values / type->values, type->bytes, &tensor.num_bytes)) {
      in_.fail("the size of its shape overflows");
    }
    tensor.begin =
        in_.scalar<std::uint64_t>();  // from the start of the data, until place_tensors()
    if (tensor.begin % alignment != 0) {
      in_.fail("offset " + std::to_string(tensor.begin) + " is no multiple of the alignment " +
               std::to_string(alignment));
    }
    return tensor;
  }

  void place_tensors(GgufHeader& header, std::uint64_t alignment) {
    const std::uint64_t padding = (alignment - in_.position() % alignment) % alignment;
    const std::uint64_t data = header.tensors.empty() ? in_.position() : in_.position() + padding;
    const std::uint64_t room = bytes_.size() > data ? bytes_.size() - data : 0;
    std::vector<const GgufHeader::Tensor*> order;
    for (auto& tensor : header.tensors) {
      in_.place = "tensor " + in_quotes(tensor.name);
      if (tensor.begin > room ||
          static_cast<std::uint64_t>(tensor.num_bytes) > room - tensor.begin) {
        in_.fail("truncated: its " + std::to_string(tensor.num_bytes) + " bytes at offset " +
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
      in_.place = "tensor " + in_quotes(tensor->name);
      if (tensor->begin < end) in_.fail("overlaps another tensor");
      end = tensor->begin + static_cast<std::uint64_t>(tensor->num_bytes);
    }
  }

  std::string_view bytes_;
  GgufReader in_;
};

}  // namespace

GgufHeader parse_gguf(std::string_view bytes, const std::string& file) {
  return HeaderParser(bytes, file).parse();
}

}  // namespace tailor::models
