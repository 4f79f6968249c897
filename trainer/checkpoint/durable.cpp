#include "trainer/checkpoint/durable.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

#include "models/files/file_error.hpp"

namespace tailor::trainer {
namespace {

[[noreturn]] void fail(const std::string& what, const std::filesystem::path& path, int error) {
  throw std::system_error(error, std::generic_category(), what + " " + path.string());
}

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags)
      : number_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (number_ < 0) fail("cannot open", path, errno);
  }
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

}  // namespace

void flush_to_disk(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY);
  // Some file systems cannot flush a directory and say EINVAL; their renames are ordered anyway.
  if (::fsync(file.number()) != 0 && errno != EINVAL) fail("cannot flush", path, errno);
}

void write_durably(const std::filesystem::path& file, std::string_view text) {
  auto temporary = file;
  temporary += ".tmp";
  try {
    const Descriptor out(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    for (std::size_t done = 0; done < text.size();) {
      const auto written = ::write(out.number(), text.data() + done, text.size() - done);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write", file, errno);
      done += static_cast<std::size_t>(written);
    }
    if (::fsync(out.number()) != 0) fail("cannot flush", file, errno);
    std::filesystem::rename(temporary, file);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

std::string read_text(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) throw models::FileError(file.string() + ": cannot be read");
  return std::move(text).str();
}

void Checksum::add_word(std::uint64_t word) {
  state_ = std::rotl((state_ ^ word) * 0xff51afd7ed558ccdU, 31);
}

void Checksum::add(const void* bytes, std::size_t size) {
  const auto* next = static_cast<const unsigned char*>(bytes);
  for (; size >= sizeof(std::uint64_t); size -= sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, next, sizeof word);
    add_word(word);
    next += sizeof word;
  }
  std::uint64_t rest = size;  // the length of the tail tells it from one with zeros behind
  for (std::size_t i = 0; i < size; ++i) rest = rest << 8U | next[i];
  add_word(rest);
}

void Checksum::add(std::string_view text) {
  add_word(text.size());
  add(text.data(), text.size());
}

std::string Checksum::hex() const {
  // Every bit of the last words reaches every bit of the result.
  auto x = state_;
  x = (x ^ (x >> 33U)) * 0xc4ceb9fe1a85ec53U;
  x ^= x >> 33U;
  std::array<char, 17> out{};
  std::snprintf(out.data(), out.size(), "%016llx", static_cast<unsigned long long>(x));
  return out.data();
}

std::string file_checksum(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw models::FileError(file.string() + ": cannot be read");
  std::vector<char> buffer(std::size_t{1} << 20U);
  Checksum sum;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0)
    sum.add(buffer.data(), static_cast<std::size_t>(in.gcount()));
  return sum.hex();
}

}  // namespace tailor::trainer
