#include "trainer/metrics/tensorboard.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>

#include "configs/reader.hpp"
#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer {
namespace {

static_assert(std::endian::native == std::endian::little, "frames and floats are little-endian");

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& reason) {
  throw configs::ConfigError(path.string() + ": cannot write TensorBoard events: " + reason);
}

template <typename T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::uint32_t masked_crc(std::string_view bytes) {
  const auto crc = crc32c(bytes);
  return std::rotr(crc, 15) + 0xA282EAD8U;  // tensorflow/core/lib/hash/crc32c.h
}

std::string framed(const std::string& record) {
  const auto length = bytes_of(std::uint64_t{record.size()});
  return length + bytes_of(masked_crc(length)) + record + bytes_of(masked_crc(record));
}

// Protocol buffers: a field is its number and wire type, then its value.
enum class Wire : std::uint8_t { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7F) | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(std::uint32_t number, Wire wire) {
  return varint(std::uint64_t{number} << 3 | static_cast<std::uint64_t>(wire));
}

std::string bytes_field(std::uint32_t number, const std::string& bytes) {
  return key(number, Wire::Bytes) + varint(bytes.size()) + bytes;
}

std::string integer_field(std::uint32_t number, std::int64_t value) {
  return key(number, Wire::Varint) + varint(static_cast<std::uint64_t>(value));
}

/// The beginning of every Event: wall_time = 1, step = 2.
std::string event_at(std::int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return key(1, Wire::Fixed64) + bytes_of(now.count()) + integer_field(2, step);
}

std::string tag_of(const std::string& name) {
  constexpr std::string_view kEval = "eval_";
  return name.starts_with(kEval) ? "eval/" + name.substr(kEval.size()) : "train/" + name;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  return name.data();
}

/// TensorBoard reads the files of a folder in the order of their names: seconds, then the count of
/// files for two starts within one second.
std::filesystem::path next_file(const std::filesystem::path& directory) {
  std::size_t files = 0;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(directory, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error))
    ++files;
  auto count = std::to_string(files);
  count.insert(0, count.size() < 6 ? 6 - count.size() : 0, '0');
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  return directory / ("events.out.tfevents." + std::to_string(seconds.count()) + "." + count + "." +
                      host_name() + "." + std::to_string(getpid()));
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      auto crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82F63B78U : 0U);
      made[i] = crc;
    }
    return made;
  }();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes)
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xFFU];
  return ~crc;
}

TensorboardLog::TensorboardLog(const std::filesystem::path& directory, std::int64_t resumed_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) refuse(directory, error.message());
  path_ = next_file(directory);
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refuse(path_, std::strerror(errno));
  // What the session start supersedes: from version 2 of the format on, all of its step and later.
  const auto start = resumed_step > 0 ? resumed_step + 1 : 0;
  constexpr std::int64_t kStart = 1;  // SessionLog.START
  write_event(event_at(start) + bytes_field(3, "brain.Event:2"));
  write_event(event_at(start) + bytes_field(7, integer_field(1, kStart)));
}

TensorboardLog::~TensorboardLog() { close(descriptor_); }

void TensorboardLog::write(const std::vector<Metric>& fields) {
  std::string values;  // Summary: value = 1 {tag = 1, simple_value = 2}
  std::int64_t step = 0;
  for (const auto& field : fields) {
    if (field.name == "step") {
      step = static_cast<std::int64_t>(field.number());
      continue;
    }
    if (!field.is_number()) continue;
    values += bytes_field(1, bytes_field(1, tag_of(field.name)) + key(2, Wire::Fixed32) +
                                 bytes_of(static_cast<float>(field.number())));
  }
  write_event(event_at(step) + bytes_field(5, values));
}

void TensorboardLog::write_event(const std::string& event) {
  try {
    write_all(descriptor_, framed(event));
  } catch (const std::system_error& error) {
    refuse(path_, error.code().message());
  }
}

}  // namespace tailor::trainer
