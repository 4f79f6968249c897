#pragma once

#include <c10/util/BFloat16.h>
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// The tile unit of AMX (Intel SDM vol. 1, chapter 18): C (16, n) += A (16, 32) B (32, n) in
// bfloat16 with float32 sums. W is A as it lies in memory, whatever the number of tokens n up to
// 16, so that 16 tokens cost little more than one.

namespace tailor::models::kernels {

constexpr std::int64_t kTileRows = 16, kTileDepth = 32, kTileTokens = 16;

/// x (T, I) in the order in which tiles read it: for every 16 tokens, pairs of inputs one after the
/// other, each with the pair of every token.
inline std::vector<std::uint32_t> pack_for_tiles(const c10::BFloat16* x, std::int64_t num_tokens,
                                                 std::int64_t in) {
  const auto num_pairs = in / 2;
  std::vector<std::uint32_t> packed(static_cast<std::size_t>(num_tokens * num_pairs));
  auto* out = packed.data();
  for (std::int64_t begin = 0; begin < num_tokens; begin += kTileTokens) {
    const auto count = std::min(kTileTokens, num_tokens - begin);
    for (std::int64_t t = 0; t < count; ++t)
      for (std::int64_t pair = 0; pair < num_pairs; ++pair)
        std::memcpy(out + pair * count + t, x + (begin + t) * in + 2 * pair, sizeof(*out));
    out += num_pairs * count;
  }
  return packed;
}

template <typename Y>  // float or bfloat16
struct TileJob {
  const std::uint32_t* x;  // pack_for_tiles()
  const c10::BFloat16* weight;
  std::int64_t weight_stride, num_tokens, in, out;
  Y* y;  // (num_tokens, out)
};

#define TAILOR_AMX_TARGET gnu::target("amx-tile,amx-bf16")

/// 16 kBlocks rows from `o` times `count` tokens from `t`. Tiles 0 and 1 are sums, 2 and 3 weights,
/// 4 the tokens. Two sums in flight do not fill the unit but outrun the memory; with four the rows
/// in work, and what is fetched for the next ones, were too much for the caches (1.1 times as
/// slow).
template <int kBlocks, typename Y>
[[TAILOR_AMX_TARGET]] inline void multiply_tiles(const TileJob<Y>& job, const std::uint32_t* x,
                                                 std::int64_t o, std::int64_t t,
                                                 std::int64_t count) {
  const auto* weight = job.weight + o * job.weight_stride;
  const auto stride = job.weight_stride * 2, block = kTileRows * job.weight_stride;
  const auto* ahead = reinterpret_cast<const char*>(weight + kBlocks * block);
  const auto fetch_ahead = [&ahead] {  // a tile's worth of the next rows, into the second level
    for (int line = 0; line < 16; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
  };
  _tile_zero(0);
  if constexpr (kBlocks > 1) _tile_zero(1);
  for (std::int64_t i = 0; i < job.in; i += kTileDepth) {
    _tile_loadd(4, x + i / 2 * count, count * 4);
    _tile_loadd(2, weight + i, stride);
    fetch_ahead();
    _tile_dpbf16ps(0, 2, 4);
    if constexpr (kBlocks > 1) {
      _tile_loadd(3, weight + block + i, stride);
      fetch_ahead();
      _tile_dpbf16ps(1, 3, 4);
    }
  }
  alignas(64) float sums[kBlocks * kTileRows * kTileTokens];
  _tile_stored(0, sums, count * 4);
  if constexpr (kBlocks > 1) _tile_stored(1, sums + kTileRows * count, count * 4);
  for (std::int64_t k = 0; k < count; ++k)
    for (std::int64_t r = 0; r < kBlocks * kTileRows; ++r)
      job.y[(t + k) * job.out + o + r] = static_cast<Y>(sums[r * count + k]);
}

[[TAILOR_AMX_TARGET]] inline void configure_tiles(std::int64_t count) {
  struct {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  } config;
  for (const int tile : {0, 1, 2, 3, 4}) {
    config.rows[tile] = kTileRows;
    const auto bytes = tile == 2 || tile == 3 ? kTileDepth * 2 : count * 4;
    config.row_bytes[tile] = static_cast<std::uint16_t>(bytes);
  }
  _tile_loadconfig(&config);
}

/// Rows 16 begin to 16 end - 1 of W, all tokens; a group of rows stays in the second-level cache
/// for all of them.
template <typename Y>
[[TAILOR_AMX_TARGET]] inline void multiply_rows(const TileJob<Y>& job, std::int64_t begin,
                                                std::int64_t end) {
  std::int64_t configured = 0;
  for (auto b = begin; b < end;) {
    const auto num_blocks = std::min<std::int64_t>(2, end - b);
    const auto* x = job.x;
    for (std::int64_t t = 0; t < job.num_tokens; t += kTileTokens) {
      const auto count = std::min(kTileTokens, job.num_tokens - t);
      if (count != configured) configure_tiles(configured = count);
      if (num_blocks == 2)
        multiply_tiles<2>(job, x, b * kTileRows, t, count);
      else
        multiply_tiles<1>(job, x, b * kTileRows, t, count);
      x += count * job.in / 2;
    }
    b += num_blocks;
  }
  _tile_release();
}

#undef TAILOR_AMX_TARGET

}  // namespace tailor::models::kernels
