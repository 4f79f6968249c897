#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tailor::trainer {

/// 64 bits against accidental damage, not against an adversary.
class Checksum {
 public:
  void add(const void* bytes, std::size_t size);
  void add(std::string_view text);  // with its length, so that "ab" + "c" is not "a" + "bc"
  std::string hex() const;          // 16 digits

 private:
  void add_word(std::uint64_t word);
  std::uint64_t state_ = 0x9e3779b97f4a7c15U;
};

std::string file_checksum(const std::filesystem::path& file);  // throws models::FileError

}  // namespace tailor::trainer
