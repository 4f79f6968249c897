#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "models/files/file_error.hpp"

namespace tailor::models {

/// A whole file, mapped privately and read-only. Nothing is read until a byte is touched.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);  // throws FileError
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return {data_, size_}; }
  const std::string& name() const { return name_; }
  /// Takes the pages of a part out of the process's resident memory (they stay in the system's
  /// cache): whoever has copied a tensor needs its file pages no longer.
  void release(std::size_t begin, std::size_t size) const;

 private:
  std::string name_;
  char* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A whole text file. Throws FileError.
std::string read_text_file(const std::filesystem::path& file);

}  // namespace tailor::models
