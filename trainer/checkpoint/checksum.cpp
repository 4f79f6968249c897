#include "trainer/checkpoint/checksum.hpp"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

#include "models/files/file_error.hpp"

namespace tailor::trainer {

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
