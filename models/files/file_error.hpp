#pragma once

#include <stdexcept>

namespace tailor::models {

/// A model file is wrong. The text names the file, the place (key, tensor, byte), what was expected
/// and what was found.
class FileError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tailor::models
