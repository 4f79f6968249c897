#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "models/files/ggml_type.hpp"
#include "models/files/gguf.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto header = tailor::models::parse_gguf(bytes, "input");
    for (const auto& tensor : header.tensors) {
      if (tensor.begin > size ||
          static_cast<std::uint64_t>(tensor.num_bytes) > size - tensor.begin) {
        std::abort();  // a tensor outside of the file
      }
      const auto& type = *tailor::models::find_ggml_type(tensor.type);
      const std::int64_t values = tensor.num_bytes / type.bytes * type.values;
      std::vector<float> out(static_cast<std::size_t>(values));
      tailor::models::dequantize(tensor.type, data + tensor.begin, values, out.data());
    }
  } catch (const tailor::models::FileError&) {
  }
  return 0;
}
