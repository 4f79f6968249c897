#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include <cstdint>
#include <vector>

#include "models/kernels/cached_attention.hpp"

namespace tailor::models {

/// Random blocks of a cache, nine of four positions, and three sequences in it: two with one new
/// token and one with three, and the queries, keys and values of these.
struct CachedTokens {
  std::vector<std::int64_t> first{3, 8}, second{1}, third{5, 0, 2};  // blocks
  std::vector<kernels::CachedSequence> sequences{
      {0, 1, 4, first}, {1, 3, 0, second}, {4, 1, 9, third}};
  kernels::CacheBlocks blocks;
  at::Tensor q, k, v;

  explicit CachedTokens(at::ScalarType dtype)
      : blocks{at::randn({9, 2, 4, 8}, dtype), at::randn({9, 2, 4, 8}, dtype)},
        q(at::randn({5, 4, 8}, dtype)),
        k(at::randn({5, 2, 8}, dtype)),
        v(at::randn({5, 2, 8}, dtype)) {}
  CachedTokens(const CachedTokens&) = delete;  // sequences are views
  CachedTokens& operator=(const CachedTokens&) = delete;
};

}  // namespace tailor::models
