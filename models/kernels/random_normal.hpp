#pragma once

#include <cmath>
#include <numbers>

#include "models/kernels/random.hpp"

namespace tailor::models::kernels {

/// N(0, 1) by Box and Muller (1958); 1 - u keeps the logarithm finite.
inline double random_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  const auto words = random_words(seed, stream, counter);
  const auto radius = std::sqrt(-2.0 * std::log(1.0 - double{to_uniform(words[0])}));
  return radius * std::cos(2.0 * std::numbers::pi * double{to_uniform(words[1])});
}

}  // namespace tailor::models::kernels
