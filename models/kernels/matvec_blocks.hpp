#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "models/kernels/lanes.hpp"

// What kernels/matvec computes in float32, for any width of vectors: everything is inlined into a
// caller with [[gnu::target]], as kernels/lanes is.

namespace tailor::models::kernels {

/// Up to so many tokens reading W takes the time, and it is read fastest from its first row to its
/// last, one behind the other (AVX-512, measured: 1.3 times as fast as four rows side by side).
constexpr std::int64_t kFewTokens = 4;

/// y (num_tokens, out), contiguous, float32 or bfloat16: the pointer that is not null.
struct MatvecOutput {
  float* wide;
  c10::BFloat16* narrow;

  [[gnu::always_inline]] void set(std::int64_t i, float value) const {
    if (wide != nullptr)
      wide[i] = value;
    else
      narrow[i] = c10::BFloat16(value);
  }

  /// y[i + r + k stride] = the sum of products[4 k + r], r and k below 4; `products` is used up.
  [[gnu::always_inline]] void set_block(std::int64_t i, std::int64_t stride,
                                        Lanes<16> (&products)[16]) const {
    fold_sums(products);
    if (wide != nullptr) {
      float sums[16];
      std::memcpy(sums, &products[0], sizeof(sums));
      for (int k = 0; k < 4; ++k)
        std::memcpy(wide + i + k * stride, sums + 4 * k, 4 * sizeof(float));
    } else {
      c10::BFloat16 rounded[16];
      store<16>(products[0], rounded);
      for (int k = 0; k < 4; ++k)
        std::memcpy(narrow + i + k * stride, rounded + 4 * k, 4 * sizeof(c10::BFloat16));
    }
  }
};

/// The rows of W and of y that one call computes, all tokens.
template <typename X, typename W>
struct MatvecRows {
  const X* x;  // (num_tokens, in), contiguous
  const W* weight;
  std::int64_t weight_stride;  // elements between rows of W
  std::int64_t num_tokens, in, out;
  MatvecOutput y;
  std::int64_t begin, end;
};

/// The processor looks ahead along a row, but a row is short. A block asks for what lies this far
/// behind it, line after line, so that whole rows come in the order of memory (measured on rows of
/// 576 and 1,536: 1.2 times the bandwidth of one core; from 4 to 12 kB the distance is no matter).
/// Every group of tokens asks again, so that x does not push those lines out of the cache.
constexpr std::int64_t kPrefetchBytes = 9216;

template <typename W>
[[gnu::always_inline]] inline void prefetch(const W* weight) {
  __builtin_prefetch(reinterpret_cast<const char*>(weight) + kPrefetchBytes);
}

/// kRows rows of W times kTokens tokens. Every product has a sum of its own over the whole row, so
/// its bits do not depend on kRows and kTokens.
template <int kLanes, int kRows, int kTokens, typename W>
[[gnu::always_inline]] inline void block(const MatvecRows<float, W>& rows, std::int64_t o,
                                         std::int64_t t) {
  const float* x = rows.x + t * rows.in;
  const W* weight = rows.weight + o * rows.weight_stride;
  Lanes<kLanes> sums[kRows * kTokens] = {};
  const auto whole = rows.in - rows.in % kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    Lanes<kLanes> x_lanes[kTokens];
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k) load<kLanes>(x + k * rows.in + i, x_lanes[k]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      Lanes<kLanes> w;
      prefetch(weight + kRows * i + kLanes * r);
      load<kLanes>(weight + r * rows.weight_stride + i, w);
#pragma GCC unroll 4
      for (int k = 0; k < kTokens; ++k) sums[k * kRows + r] += w * x_lanes[k];
    }
  }
  if constexpr (kLanes == 16 && kRows == 4 && kTokens == 4)
    if (whole == rows.in) return rows.y.set_block(t * rows.out + o, rows.out, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k) {
      float total = sum<kLanes>(sums[k * kRows + r]);
      for (auto i = whole; i < rows.in; ++i)
        total += static_cast<float>(weight[r * rows.weight_stride + i]) * x[k * rows.in + i];
      rows.y.set((t + k) * rows.out + o + r, total);
    }
}

template <int kLanes, int kRows, int kMaxTokens, typename W>
[[gnu::always_inline]] inline void all_tokens(const MatvecRows<float, W>& rows, std::int64_t o) {
  std::int64_t t = 0;
  for (; t + kMaxTokens <= rows.num_tokens; t += kMaxTokens)
    block<kLanes, kRows, kMaxTokens>(rows, o, t);
  for (; t < rows.num_tokens; ++t) block<kLanes, kRows, 1>(rows, o, t);
}

/// A block of W's rows meets all tokens while it lies in the first-level cache.
template <int kLanes, int kRows, int kMaxTokens, typename W>
[[gnu::always_inline]] inline void all_rows(const MatvecRows<float, W>& rows) {
  auto o = rows.begin;
  for (; o + kRows <= rows.end; o += kRows) all_tokens<kLanes, kRows, kMaxTokens>(rows, o);
  for (; o < rows.end; ++o) all_tokens<kLanes, 1, kMaxTokens>(rows, o);
}

/// kRows rows of W, widened, times kTokens tokens: the same sums, in the same order, as block().
/// Three rows and four tokens keep 12 sums, the rows and a token in AVX2's 16 registers.
/// `kAhead` asks memory for as many rows behind these.
template <int kLanes, int kRows, int kTokens, bool kAhead, typename W>
[[gnu::always_inline]] inline void wide_block(const MatvecRows<float, W>& rows, const float* weight,
                                              std::int64_t weight_stride, std::int64_t o,
                                              std::int64_t t) {
  const float* x = rows.x + t * rows.in;
  Lanes<kLanes> sums[kTokens][kRows] = {};
  const auto whole = rows.in - rows.in % kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    Lanes<kLanes> w[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kAhead && std::is_same_v<W, float>)
        __builtin_prefetch(weight + (kRows + r) * weight_stride + i);
      load<kLanes>(weight + r * weight_stride + i, w[r]);
    }
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k) {
      Lanes<kLanes> x_lanes;
      load<kLanes>(x + k * rows.in + i, x_lanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[k][r] += w[r] * x_lanes;
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      float total = sum<kLanes>(sums[k][r]);
      for (auto i = whole; i < rows.in; ++i)
        total += weight[r * weight_stride + i] * x[k * rows.in + i];
      rows.y.set((t + k) * rows.out + o + r, total);
    }
}

/// Rows o ... o + kRows - 1 of W as float32, where they lie or, widened, in `scratch`.
template <int kLanes, int kRows>
[[gnu::always_inline]] inline const float* widened_rows(const MatvecRows<float, float>& rows,
                                                        std::int64_t o, float* /*scratch*/) {
  return rows.weight + o * rows.weight_stride;
}
template <int kLanes, int kRows>
[[gnu::always_inline]] inline const float* widened_rows(
    const MatvecRows<float, c10::BFloat16>& rows, std::int64_t o, float* scratch) {
  const auto whole = rows.in - rows.in % kLanes;
  for (int r = 0; r < kRows; ++r) {
    const auto* weight = rows.weight + (o + r) * rows.weight_stride;
    float* wide = scratch + r * rows.in;
    for (std::int64_t i = 0; i < whole; i += kLanes) {
      Lanes<kLanes> w;
      prefetch(weight + i);
      load<kLanes>(weight + i, w);
      std::memcpy(wide + i, &w, sizeof(w));
    }
    for (auto i = whole; i < rows.in; ++i) wide[i] = static_cast<float>(weight[i]);
  }
  return scratch;
}

template <int kLanes, int kRows, typename W>
[[gnu::always_inline]] inline void many_tokens(const MatvecRows<float, W>& rows, std::int64_t o,
                                               float* scratch) {
  const float* weight = widened_rows<kLanes, kRows>(rows, o, scratch);
  const auto stride = std::is_same_v<W, float> ? rows.weight_stride : rows.in;
  if (o + 2 * kRows <= rows.end)
    wide_block<kLanes, kRows, 4, true>(rows, weight, stride, o, 0);
  else
    wide_block<kLanes, kRows, 4, false>(rows, weight, stride, o, 0);
  std::int64_t t = 4;
  for (; t + 4 <= rows.num_tokens; t += 4)
    wide_block<kLanes, kRows, 4, false>(rows, weight, stride, o, t);
  for (; t + 2 <= rows.num_tokens; t += 2)
    wide_block<kLanes, kRows, 2, false>(rows, weight, stride, o, t);
  for (; t < rows.num_tokens; ++t) wide_block<kLanes, kRows, 1, false>(rows, weight, stride, o, t);
}

/// For more tokens than reading W hides, four at least: a row is widened once for all of them.
template <int kLanes, int kRows, typename W>
[[gnu::always_inline]] inline void all_rows_of_many(const MatvecRows<float, W>& rows) {
  std::vector<float> scratch(std::is_same_v<W, float> ? 0
                                                      : static_cast<std::size_t>(kRows * rows.in));
  auto o = rows.begin;
  for (; o + kRows <= rows.end; o += kRows) many_tokens<kLanes, kRows>(rows, o, scratch.data());
  for (; o < rows.end; ++o) many_tokens<kLanes, 1>(rows, o, scratch.data());
}

}  // namespace tailor::models::kernels
