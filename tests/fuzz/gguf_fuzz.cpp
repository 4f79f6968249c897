#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/files/ggml_type.hpp"
#include "models/files/gguf.hpp"
#include "models/files/gguf_model.hpp"

namespace {

namespace models = tailor::models;

/// A GGUF file in memory.
class Memory : public models::GgufFile {
 public:
  Memory(models::GgufHeader header, const std::uint8_t* data)
      : header_(std::move(header)), data_(data) {
    entries_.assign(header_.tensors.begin(), header_.tensors.end());
  }
  const std::vector<models::TensorEntry>& entries() const override { return entries_; }
  const models::GgufHeader& header() const override { return header_; }
  bool contains(const std::string& name) const override { return find(name) != nullptr; }
  at::Tensor read(const std::string& name, at::ScalarType) const override {
    const auto& tensor = *find(name);
    at::Tensor out = at::empty(tensor.shape, at::kFloat);
    if (out.numel() > 0) {
      models::dequantize(tensor.type, data_ + tensor.begin, out.numel(),
                         out.mutable_data_ptr<float>());
    }
    return out;
  }

 private:
  const models::GgufHeader::Tensor* find(const std::string& name) const {
    for (const auto& tensor : header_.tensors) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  models::GgufHeader header_;
  std::vector<models::TensorEntry> entries_;
  const std::uint8_t* data_;
};

void check_places(const models::GgufHeader& header, std::size_t size) {
  for (const auto& tensor : header.tensors) {
    if (tensor.begin > size || static_cast<std::uint64_t>(tensor.num_bytes) > size - tensor.begin) {
      std::abort();  // a tensor outside of the file
    }
  }
}

/// What each step refuses must not hide the next.
template <typename F>
void attempt(const F& step) {
  try {
    step();
  } catch (const models::FileError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    auto header = models::parse_gguf(bytes, "input");
    check_places(header, size);
    const auto file = std::make_shared<Memory>(std::move(header), data);
    const models::GgufMetadata metadata(file->header(), "input");
    for (const auto& entry : file->entries()) attempt([&] { file->read(entry.name, at::kFloat); });
    attempt([&] { models::gguf_config_json(*file, metadata); });
    attempt([&] { models::gguf_as_hf_tensors(file, metadata); });
    attempt([&] {
      models::text::make_tokenizer(models::gguf_tokenizer(metadata))->encode("a 12 <s>");
    });
  });
  return 0;
}
