#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace tailor::models::kernels {

/// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): four random
/// words as a pure function of a counter and a key. Nothing is carried from call to call, so a draw
/// depends on neither order, nor batching, nor the number of ranks.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                              std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

/// The four words of draw `counter` in stream `stream` of seed `seed`.
constexpr std::array<std::uint32_t, 4> random_words(std::uint64_t seed, std::uint64_t stream,
                                                    std::uint64_t counter) {
  return philox({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                 static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t stream,
                                    std::uint64_t counter) {
  const auto words = random_words(seed, stream, counter);
  return std::uint64_t{words[1]} << 32 | words[0];
}

/// [0, 1) in steps of 2^-24, every value exact in float32.
constexpr float to_uniform(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24F; }
/// [0, 1) in steps of 2^-53.
constexpr double to_uniform(std::uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

constexpr float random_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  return to_uniform(random_words(seed, stream, counter)[0]);
}

/// A stream of its own for every purpose and place: stream_of("dropout", {step, module}). FNV-1a
/// over the text, then one round of splitmix64 (Steele et al. 2014) a number.
constexpr std::uint64_t stream_of(std::string_view purpose,
                                  std::initializer_list<std::uint64_t> numbers = {}) {
  std::uint64_t stream = 0xCBF29CE484222325;
  for (const char c : purpose) stream = (stream ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  for (const auto number : numbers) {
    stream += number + 0x9E3779B97F4A7C15;
    stream = (stream ^ stream >> 30) * 0xBF58476D1CE4E5B9;
    stream = (stream ^ stream >> 27) * 0x94D049BB133111EB;
    stream ^= stream >> 31;
  }
  return stream;
}

}  // namespace tailor::models::kernels
