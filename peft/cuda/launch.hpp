#pragma once

#include <cstdint>

struct CUstream_st;

namespace tailor::peft::cuda {

/// What drop_() (peft/dropout.hpp) does to x (tokens, in), in numbers: words are drawn for blocks
/// of 8 features, `num_blocks` a token, and the layer's feature `first_feature` is the first of x.
struct Mask {
  std::uint64_t seed, stream;
  std::int64_t first_token, first_feature, num_blocks;
  std::uint32_t threshold;  // of 2^16: numbers below it drop
};

/// Over raw memory of one GPU, enqueued on `stream`. T is float, double or c10::BFloat16.
template <class T>
void drop(T* x, std::int64_t tokens, std::int64_t in, const Mask& mask, CUstream_st* stream);

}  // namespace tailor::peft::cuda
