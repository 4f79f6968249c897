#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "models/kernels/isa.hpp"

namespace tailor::models {

/// The largest of x; -infinity where there is none. What a NaN does is not said.
float largest_of(std::span<const float> x, kernels::Isa isa = kernels::available_isas().back());

constexpr std::size_t kSumChunk = 64;

/// Parts of the denominator of a softmax over a vocabulary: element c is the sum of
/// exp((x - largest) / temperature) over x[64 c] ... x[64 c + 63], of float32 accuracy.
std::vector<float> softmax_sums(std::span<const float> x, float largest, double temperature,
                                kernels::Isa isa = kernels::available_isas().back());

}  // namespace tailor::models
