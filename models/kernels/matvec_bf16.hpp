#pragma once

#include <c10/util/BFloat16.h>
#include <immintrin.h>

#include "models/kernels/matvec_blocks.hpp"

// y = x W^T in bfloat16 with float32 sums by AVX-512's VDPBF16PS (Intel SDM vol. 2), which takes
// products of two neighbours at a time and flushes subnormals.

namespace tailor::models::kernels {

#define TAILOR_BF16_TARGET \
  gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")

template <bool kWhole>
[[gnu::always_inline, TAILOR_BF16_TARGET]] inline void load_32(const c10::BFloat16* from,
                                                               __mmask32 mask, __m512bh& to) {
  to = (__m512bh)(kWhole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(mask, from));
}

/// Columns i ... i + 31 of W and x, those in `mask`: 32 products an instruction.
template <bool kWhole, int kRows, int kTokens>
[[gnu::always_inline, TAILOR_BF16_TARGET]] inline void bf16_columns(
    const MatvecRows<c10::BFloat16, c10::BFloat16>& rows, std::int64_t o, std::int64_t t,
    std::int64_t i, __mmask32 mask, Lanes<16> (&sums)[kRows * kTokens]) {
  const auto* weight = rows.weight + o * rows.weight_stride;
  __m512bh x[kTokens], w;
#pragma GCC unroll 4
  for (int k = 0; k < kTokens; ++k) load_32<kWhole>(rows.x + (t + k) * rows.in + i, mask, x[k]);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    prefetch(weight + kRows * i + 32 * r);
    load_32<kWhole>(weight + r * rows.weight_stride + i, mask, w);
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k) {
      auto& total = sums[k * kRows + r];
      total = (Lanes<16>)_mm512_dpbf16_ps((__m512)total, w, x[k]);
    }
  }
}

template <int kRows, int kTokens>
[[gnu::always_inline, TAILOR_BF16_TARGET]] inline void bf16_block(
    const MatvecRows<c10::BFloat16, c10::BFloat16>& rows, std::int64_t o, std::int64_t t) {
  Lanes<16> sums[kRows * kTokens] = {};
  const auto whole = rows.in - rows.in % 32;
  for (std::int64_t i = 0; i < whole; i += 32)
    bf16_columns<true, kRows, kTokens>(rows, o, t, i, ~0U, sums);
  if (whole < rows.in)
    bf16_columns<false, kRows, kTokens>(rows, o, t, whole, (1U << (rows.in - whole)) - 1U, sums);
  if constexpr (kRows == 4 && kTokens == 4)
    return rows.y.set_block(t * rows.out + o, rows.out, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k)
      rows.y.set((t + k) * rows.out + o + r, sum<16>(sums[k * kRows + r]));
}

template <int kRows>
[[gnu::always_inline, TAILOR_BF16_TARGET]] inline void bf16_tokens(
    const MatvecRows<c10::BFloat16, c10::BFloat16>& rows, std::int64_t o) {
  std::int64_t t = 0;
  for (; t + 4 <= rows.num_tokens; t += 4) bf16_block<kRows, 4>(rows, o, t);
  for (; t < rows.num_tokens; ++t) bf16_block<kRows, 1>(rows, o, t);
}

[[TAILOR_BF16_TARGET]] inline void avx512_bf16(
    const MatvecRows<c10::BFloat16, c10::BFloat16>& rows) {
  auto o = rows.begin;
  if (rows.num_tokens > kFewTokens)
    for (; o + 4 <= rows.end; o += 4) bf16_tokens<4>(rows, o);
  for (; o < rows.end; ++o) bf16_tokens<1>(rows, o);
}
#undef TAILOR_BF16_TARGET

}  // namespace tailor::models::kernels
