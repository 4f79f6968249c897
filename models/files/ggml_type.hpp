#pragma once

#include <cstdint>
#include <string_view>

namespace tailor::models {

/// A tensor type of ggml: `values` values are stored together in `bytes` bytes.
struct GgmlType {
  std::uint32_t id;
  std::string_view name;
  std::int64_t values;
  std::int64_t bytes;
};

/// Null for an id that is not known.
const GgmlType* find_ggml_type(std::uint32_t id);

namespace ggml {
inline constexpr std::uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7,
                               kQ8_0 = 8, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kBF16 = 30;
}

}  // namespace tailor::models
