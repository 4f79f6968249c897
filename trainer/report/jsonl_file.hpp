#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/data/line_reader.hpp"

namespace tailor::trainer {

/// What a reader had to leave out, a sentence each, for people.
using Notes = std::vector<std::string>;

/// Lines of a file of JSON objects that may be damaged: the last line of a run in progress is
/// torn, a text may hold anything. Lines come out as valid UTF-8 without raw control characters;
/// empty ones are passed over.
class JsonlFile {
 public:
  /// Throws configs::ConfigError where the file is none or cannot be read.
  explicit JsonlFile(const std::filesystem::path& path);

  bool next(std::string& line);
  /// The caller could not use line `number`; in any order.
  void leave_out(std::int64_t number);
  std::int64_t line_number() const { return reader_.line_number(); }  // of the last line, from 1
  /// Adds a sentence on the lines that were left out, if any. At the end of the file.
  void tell(Notes& notes) const;

 private:
  std::string name_;
  LineReader reader_;
  std::int64_t num_left_out_ = 0, first_left_out_ = 0, last_left_out_ = 0, last_line_ = 0;
};

}  // namespace tailor::trainer
