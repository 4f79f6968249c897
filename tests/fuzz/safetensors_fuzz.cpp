#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "models/files/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto header = tailor::models::parse_safetensors(bytes, size, "input");
    for (const auto& tensor : header.tensors) {
      if (tensor.begin > size ||
          static_cast<std::uint64_t>(tensor.num_bytes) > size - tensor.begin) {
        std::abort();  // a tensor outside of the file
      }
    }
  } catch (const tailor::models::FileError&) {
  }
  return 0;
}
