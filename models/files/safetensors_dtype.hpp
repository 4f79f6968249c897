#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string_view>

namespace tailor::models {

/// A safetensors dtype word ("BF16") as libtorch's dtype; empty for an unknown word. Dtypes below a
/// byte (F4, F6) are not known.
std::optional<at::ScalarType> dtype_named(std::string_view word);

/// The inverse; empty for a dtype that safetensors cannot hold.
std::string_view dtype_word(at::ScalarType dtype);

}  // namespace tailor::models
