#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tailor::trainer {

/// Flushes a file, or the entries of a directory, to the disk. Throws std::system_error.
void flush_to_disk(const std::filesystem::path& path);

/// Writes a small file to a temporary name, flushes it and renames. Throws std::system_error.
void write_durably(const std::filesystem::path& file, std::string_view text);

std::string read_text(const std::filesystem::path& file);  // throws models::FileError

/// 64 bits against accidental damage, not against an adversary; 16 hexadecimal digits.
class Checksum {
 public:
  void add(const void* bytes, std::size_t size);
  void add(std::string_view text);  // with its length, so that "ab" + "c" is not "a" + "bc"
  std::string hex() const;

 private:
  void add_word(std::uint64_t word);
  std::uint64_t state_ = 0x9e3779b97f4a7c15U;
};

std::string file_checksum(const std::filesystem::path& file);  // throws models::FileError

}  // namespace tailor::trainer
