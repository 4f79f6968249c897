#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tailor::models {

/// A model file is wrong. The text names the file, the place (key, tensor, byte), what was expected
/// and what was found.
class FileError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A name out of a file, in quotes, for a message: cut where it is long, with every byte that is
/// not printable ASCII written as \x...
std::string in_quotes(std::string_view name);

/// "(576, 1536)".
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace tailor::models
