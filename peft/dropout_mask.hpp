#pragma once

#include <cstdint>

#include "models/kernels/random.hpp"

namespace tailor::peft {

/// A Dropout for rows of a given width, in numbers that the host's loop and the GPU's kernel read:
/// both drop what this says. Features are drawn in blocks, whose four random words are eight
/// numbers of 16 bits, since p in steps of 2^-16 is fine enough and drawing is what costs.
struct DropoutMask {
  static constexpr std::int64_t kBlock = 8;

  std::uint64_t seed, stream;
  std::int64_t first_token, first_feature;
  std::int64_t num_blocks;  // of a token, all features
  std::uint32_t threshold;  // of 2^16: numbers below it drop

  /// Blocks that rows of `width` features touch: first_block() and as many as this.
  constexpr std::int64_t blocks_of(std::int64_t width) const {
    return (first_feature + width + kBlock - 1) / kBlock - first_block();
  }
  constexpr std::int64_t first_block() const { return first_feature / kBlock; }
  /// Column of the first feature of `block`; negative in a first, cut block.
  constexpr std::int64_t column_of(std::int64_t block) const {
    return kBlock * block - first_feature;
  }

  constexpr auto words(std::int64_t token, std::int64_t block) const {
    return models::kernels::random_words(
        seed, stream, static_cast<std::uint64_t>((first_token + token) * num_blocks + block));
  }
  /// Whether the i-th feature of the block of `words` is dropped.
  template <class Words>
  constexpr bool drops(const Words& words, std::int64_t i) const {
    return (words[static_cast<std::size_t>(i / 2)] >> (i % 2 == 0 ? 0 : 16) & 0xFFFFU) < threshold;
  }
};

}  // namespace tailor::peft
