#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
std::uint32_t crc32c(std::string_view bytes);

/// A folder of event files that TensorBoard reads: TFRecord frames (length, masked CRC-32C, bytes,
/// masked CRC-32C; tensorflow/core/lib/io/record_writer.h) of the Event message of
/// tensorflow/core/util/event.proto. Fields named eval_x are the tag eval/x, others train/x.
class TensorboardLog {
 public:
  /// Begins a new file in the folder, which is made. Where a run goes on from a step, a session
  /// start at the step after it makes TensorBoard forget what older files say of later steps.
  /// Throws configs::ConfigError where it cannot be written.
  TensorboardLog(const std::filesystem::path& directory, std::int64_t resumed_step);
  ~TensorboardLog();
  TensorboardLog(const TensorboardLog&) = delete;
  TensorboardLog& operator=(const TensorboardLog&) = delete;

  void write(const std::vector<Metric>& fields);  // "step" is the event's step
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_event(const std::string& event);

  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace tailor::trainer
