#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

/// One JSON object of the fields, in their order, without a newline. Numbers are the shortest that
/// read back as the same; what JSON cannot hold is the text "nan", "inf" or "-inf".
std::string json_line(const std::vector<Metric>& fields);

/// metrics.jsonl and completions.jsonl: lines that each have a "step". A line is in the file when
/// write() returns, whatever happens to the process afterwards.
class JsonlLog {
 public:
  /// Opens or makes the file and cuts it back to its lines of steps up to keep_through_step: later
  /// ones, and a last line that a killed process left unfinished, are the resumed run's to write,
  /// and where `keeps_its_evaluation` is false the last step's line of "eval_..." too. 0 keeps
  /// nothing. Throws configs::ConfigError where the file cannot be read or written.
  JsonlLog(const std::filesystem::path& path, std::int64_t keep_through_step,
           const std::string& number = "loss", bool keeps_its_evaluation = true);
  ~JsonlLog();
  JsonlLog(const JsonlLog&) = delete;
  JsonlLog& operator=(const JsonlLog&) = delete;

  void write(const std::vector<Metric>& fields);  // throws ConfigError, as on a full disk
  void write_line(const std::string& json);       // likewise; an object with a "step"
  const std::vector<double>& kept_numbers() const { return kept_numbers_; }  // of kept lines

 private:
  std::filesystem::path path_;
  std::vector<double> kept_numbers_;
  int descriptor_ = -1;
};

}  // namespace tailor::trainer
