#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tailor::models {

/// A file that appears under its name only when it is complete and on the disk: it is written to a
/// temporary name beside, flushed, renamed, and the directory flushed. Without commit() nothing is
/// left. Every failure (a full disk, say) is a std::system_error that names the file.
class DurableFile {
 public:
  explicit DurableFile(std::filesystem::path file);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(const void* bytes, std::size_t size, std::uint64_t offset);
  void commit();

 private:
  [[noreturn]] void fail(const char* action) const;
  std::filesystem::path file_, temporary_;
  int descriptor_;
};

void write_durable_file(const std::filesystem::path& file, std::string_view text);

/// Flushes the entries of a directory: without it a rename may be lost with the power.
void flush_directory(const std::filesystem::path& directory);

}  // namespace tailor::models
