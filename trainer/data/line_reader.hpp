#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace tailor::trainer {

/// A row of a data file is never longer: a file without newlines must not fill the memory.
constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;

/// Lines of a text file of any size, without their "\n" or "\r\n" and without a UTF-8 byte order
/// mark.
class LineReader {
 public:
  /// Throws configs::ConfigError "path: reason" where the file is none or cannot be read.
  explicit LineReader(const std::filesystem::path& path, char separator = '\n',
                      std::size_t max_line_bytes = kMaxLineBytes);

  /// The next line, false at the end. A line that is too long comes out empty, with too_long().
  bool next(std::string& line);
  bool too_long() const { return too_long_; }
  std::int64_t line_number() const { return line_number_; }  // of the last line, from 1

 private:
  bool fill();

  std::filesystem::path path_;
  std::ifstream file_;
  char separator_;
  std::size_t max_line_bytes_;
  std::vector<char> block_;
  std::size_t begin_ = 0, end_ = 0;  // unread part of the block
  std::int64_t line_number_ = 0;
  bool too_long_ = false;
};

}  // namespace tailor::trainer
