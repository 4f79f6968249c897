#include "models/kernels/matvec.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "models/kernels/lanes.hpp"
#include "models/kernels/matvec_amx.hpp"

// T tokens, I in, O out
namespace tailor::models::kernels {
namespace {

/// y (num_tokens, out), contiguous, float32 or bfloat16: the pointer that is not null.
struct Output {
  float* wide;
  c10::BFloat16* narrow;

  [[gnu::always_inline]] void set(std::int64_t i, float value) const {
    if (wide != nullptr)
      wide[i] = value;
    else
      narrow[i] = c10::BFloat16(value);
  }

  /// y[i + r + k stride] = the sum of products[4 k + r], r and k below 4; `products` is used up.
  [[gnu::always_inline]] void set(std::int64_t i, std::int64_t stride,
                                  Lanes<16> (&products)[16]) const {
    fold_sums(products);
    if (wide != nullptr) {
      for (int k = 0; k < 4; ++k)
        std::memcpy(wide + i + k * stride, reinterpret_cast<const float*>(&products[0]) + 4 * k,
                    4 * sizeof(float));
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
struct Rows {
  const X* x;  // (num_tokens, in), contiguous
  const W* weight;
  std::int64_t weight_stride;  // elements between rows of W
  std::int64_t num_tokens, in, out;
  Output y;
  std::int64_t begin, end;
};

/// The processor looks ahead along a row, but a row is short. A block asks for what lies this far
/// behind it, line after line: the rows that follow (measured: 1.2 times the bandwidth of one
/// core). Every group of tokens asks again, so that x does not push those lines out of the cache.
constexpr std::int64_t kPrefetchBytes = 9216;

template <typename W>
[[gnu::always_inline]] inline void prefetch(const W* weight) {
  __builtin_prefetch(reinterpret_cast<const char*>(weight) + kPrefetchBytes);
}

/// kRows rows of W times kTokens tokens. Every product has a sum of its own over the whole row, so
/// its bits do not depend on kRows and kTokens.
template <int kLanes, int kRows, int kTokens, typename W>
[[gnu::always_inline]] inline void block(const Rows<float, W>& rows, std::int64_t o,
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
    if (whole == rows.in) return rows.y.set(t * rows.out + o, rows.out, sums);
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
[[gnu::always_inline]] inline void all_tokens(const Rows<float, W>& rows, std::int64_t o) {
  std::int64_t t = 0;
  for (; t + kMaxTokens <= rows.num_tokens; t += kMaxTokens)
    block<kLanes, kRows, kMaxTokens>(rows, o, t);
  for (; t < rows.num_tokens; ++t) block<kLanes, kRows, 1>(rows, o, t);
}

/// A block of W's rows meets all tokens while it lies in the first-level cache.
template <int kLanes, int kRows, int kMaxTokens, typename W>
[[gnu::always_inline]] inline void all_rows(const Rows<float, W>& rows) {
  auto o = rows.begin;
  for (; o + kRows <= rows.end; o += kRows) all_tokens<kLanes, kRows, kMaxTokens>(rows, o);
  for (; o < rows.end; ++o) all_tokens<kLanes, 1, kMaxTokens>(rows, o);
}

/// kRows rows of W, widened, times kTokens tokens: the same sums, in the same order, as block().
/// Three rows and four tokens keep 12 sums, the rows and a token in AVX2's 16 registers.
/// `kAhead` asks memory for as many rows behind these.
template <int kLanes, int kRows, int kTokens, bool kAhead, typename W>
[[gnu::always_inline]] inline void wide_block(const Rows<float, W>& rows, const float* weight,
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
[[gnu::always_inline]] inline const float* widened_rows(const Rows<float, float>& rows,
                                                        std::int64_t o, float* /*scratch*/) {
  return rows.weight + o * rows.weight_stride;
}
template <int kLanes, int kRows>
[[gnu::always_inline]] inline const float* widened_rows(const Rows<float, c10::BFloat16>& rows,
                                                        std::int64_t o, float* scratch) {
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
[[gnu::always_inline]] inline void many_tokens(const Rows<float, W>& rows, std::int64_t o,
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
[[gnu::always_inline]] inline void all_rows_of_many(const Rows<float, W>& rows) {
  std::vector<float> scratch(std::is_same_v<W, float> ? 0
                                                      : static_cast<std::size_t>(kRows * rows.in));
  auto o = rows.begin;
  for (; o + kRows <= rows.end; o += kRows) many_tokens<kLanes, kRows>(rows, o, scratch.data());
  for (; o < rows.end; ++o) many_tokens<kLanes, 1>(rows, o, scratch.data());
}

/// Up to so many tokens reading W takes the time, and it is read fastest from its first row to its
/// last, one behind the other (measured: 1.3 times as fast as four rows side by side).
constexpr std::int64_t kFewTokens = 4;

template <typename W>
void portable(const Rows<float, W>& rows) {
  all_rows<4, 2, 4>(rows);
}
template <typename W>
[[gnu::target("avx2,fma")]] void avx2(const Rows<float, W>& rows) {
  constexpr std::int64_t kFew = 4;
  if (rows.num_tokens <= kFew)
    all_rows<8, 2, 4>(rows);
  else
    all_rows_of_many<8, 3>(rows);
}
template <typename W>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void avx512(
    const Rows<float, W>& rows) {
  if (rows.num_tokens <= kFewTokens)
    all_rows<16, 1, 4>(rows);
  else
    all_rows<16, 4, 4>(rows);
}

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
    const Rows<c10::BFloat16, c10::BFloat16>& rows, std::int64_t o, std::int64_t t, std::int64_t i,
    __mmask32 mask, Lanes<16> (&sums)[kRows * kTokens]) {
  __m512bh x[kTokens], w;
#pragma GCC unroll 4
  for (int k = 0; k < kTokens; ++k) load_32<kWhole>(rows.x + (t + k) * rows.in + i, mask, x[k]);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const auto* block = rows.weight + o * rows.weight_stride;
    prefetch(block + kRows * i + 32 * r);
    load_32<kWhole>(block + r * rows.weight_stride + i, mask, w);
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k) {
      auto& sum = sums[k * kRows + r];
      sum = (Lanes<16>)_mm512_dpbf16_ps((__m512)sum, w, x[k]);
    }
  }
}

template <int kRows, int kTokens>
[[gnu::always_inline, TAILOR_BF16_TARGET]] inline void bf16_block(
    const Rows<c10::BFloat16, c10::BFloat16>& rows, std::int64_t o, std::int64_t t) {
  Lanes<16> sums[kRows * kTokens] = {};
  const auto whole = rows.in - rows.in % 32;
  for (std::int64_t i = 0; i < whole; i += 32)
    bf16_columns<true, kRows, kTokens>(rows, o, t, i, ~0U, sums);
  if (whole < rows.in)
    bf16_columns<false, kRows, kTokens>(rows, o, t, whole, (1U << (rows.in - whole)) - 1U, sums);
  if constexpr (kRows == 4 && kTokens == 4) return rows.y.set(t * rows.out + o, rows.out, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < kTokens; ++k)
      rows.y.set((t + k) * rows.out + o + r, sum<16>(sums[k * kRows + r]));
}

template <int kRows>
[[gnu::always_inline, TAILOR_BF16_TARGET]] inline void bf16_tokens(
    const Rows<c10::BFloat16, c10::BFloat16>& rows, std::int64_t o) {
  std::int64_t t = 0;
  for (; t + 4 <= rows.num_tokens; t += 4) bf16_block<kRows, 4>(rows, o, t);
  for (; t < rows.num_tokens; ++t) bf16_block<kRows, 1>(rows, o, t);
}

[[TAILOR_BF16_TARGET]] void avx512_bf16(const Rows<c10::BFloat16, c10::BFloat16>& rows) {
  auto o = rows.begin;
  if (rows.num_tokens > kFewTokens)
    for (; o + 4 <= rows.end; o += 4) bf16_tokens<4>(rows, o);
  for (; o < rows.end; ++o) bf16_tokens<1>(rows, o);
}
#undef TAILOR_BF16_TARGET

template <typename W>
void widened(const Rows<float, W>& rows, Isa isa) {
  switch (isa) {
    case Isa::Portable:
      return portable(rows);
    case Isa::Avx2:
      return avx2(rows);
    default:
      return avx512(rows);
  }
}

constexpr std::int64_t kWeightsATask = 16384;  // below, waking a thread costs more

/// Shares the rows of W among the threads, in whole blocks.
template <typename X, typename W, typename Kernel>
void run(const Rows<X, W>& rows, const Kernel& kernel) {
  constexpr std::int64_t kBlock = 4;
  const auto grain = 1 + kWeightsATask / (kBlock * rows.in + 1);
  at::parallel_for(0, (rows.out + kBlock - 1) / kBlock, grain,
                   [&](std::int64_t begin, std::int64_t end) {
                     auto part = rows;
                     part.begin = begin * kBlock;
                     part.end = std::min(end * kBlock, rows.out);
                     kernel(part);
                   });
}

/// Whether tiles take the product, whatever the number of tokens: a lone one is 0.92 times as fast
/// as with vectors, but has the bits that it has among others, and eight are 1.5 times as fast.
bool fits_tiles(const at::Tensor& x_TI, const at::Tensor& weight_OI, Isa isa) {
  return isa == Isa::Amx && x_TI.scalar_type() == at::kBFloat16 &&
         weight_OI.scalar_type() == at::kBFloat16 && weight_OI.size(1) % kTileDepth == 0 &&
         weight_OI.size(0) % kTileRows == 0;
}

template <typename Y>
void run_tiles(const at::Tensor& x_TI, const at::Tensor& weight_OI, Y* y) {
  const auto x = x_TI.contiguous();
  const auto num_tokens = x.size(0), in = x.size(1), out = weight_OI.size(0);
  const auto packed = pack_for_tiles(x.const_data_ptr<c10::BFloat16>(), num_tokens, in);
  const auto* weight = weight_OI.const_data_ptr<c10::BFloat16>();
  const TileJob<Y> job{packed.data(), weight, weight_OI.stride(0), num_tokens, in, out, y};
  const auto grain = 1 + kWeightsATask / (kTileRows * in + 1);
  at::parallel_for(0, out / kTileRows, grain,
                   [&](std::int64_t begin, std::int64_t end) { multiply_rows(job, begin, end); });
}

bool is_operand(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

void check(const at::Tensor& x_TI, const at::Tensor& weight_OI,
           const std::optional<at::Tensor>& bias_O) {
  TORCH_CHECK_VALUE(x_TI.dim() == 2 && weight_OI.dim() == 2 && x_TI.size(1) == weight_OI.size(1) &&
                        (!bias_O || (bias_O->dim() == 1 && bias_O->size(0) == weight_OI.size(0))),
                    "matvec: x (T, I), W (O, I) and bias (O) do not fit, found x ", x_TI.sizes(),
                    ", W ", weight_OI.sizes(), bias_O ? ", a bias" : "");
  TORCH_CHECK_VALUE(is_operand(x_TI) && is_operand(weight_OI) && x_TI.device().is_cpu() &&
                        weight_OI.device().is_cpu(),
                    "matvec: x and W are float32 or bfloat16 in main memory, found x ",
                    x_TI.scalar_type(), ", W ", weight_OI.scalar_type());
}

}  // namespace

bool takes_matvec(const at::Tensor& x_TI) {
  return x_TI.is_cpu() && x_TI.size(0) <= kMatvecMaxTokens;
}

at::Tensor matvec(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                  const std::optional<at::Tensor>& bias_O, Isa isa) {
  check(x_TI, weight_OI, bias_O);
  const auto weight = weight_OI.stride(1) == 1 ? weight_OI : weight_OI.contiguous();
  const auto num_tokens = x_TI.size(0), in = x_TI.size(1), out = weight.size(0);
  const auto y_type = bias_O ? at::kFloat : x_TI.scalar_type();  // rounded once, behind the bias
  auto y_TO = at::empty({num_tokens, out}, x_TI.options().dtype(y_type));
  const Output y{y_type == at::kFloat ? y_TO.data_ptr<float>() : nullptr,
                 y_type == at::kFloat ? nullptr : y_TO.data_ptr<c10::BFloat16>()};
  const auto rows_of = [&]<typename X, typename W>(const X* x, const W* w) {
    return Rows<X, W>{x, w, weight.stride(0), num_tokens, in, out, y, 0, out};
  };
  const bool weight_is_bf16 = weight.scalar_type() == at::kBFloat16;
  if (num_tokens > 0 && fits_tiles(x_TI, weight, isa)) {
    if (y.wide != nullptr)
      run_tiles(x_TI, weight, y.wide);
    else
      run_tiles(x_TI, weight, y.narrow);
  } else if (isa >= Isa::Avx512Bf16 && weight_is_bf16 && x_TI.scalar_type() == at::kBFloat16) {
    const auto x = x_TI.contiguous();
    run(rows_of(x.const_data_ptr<c10::BFloat16>(), weight.const_data_ptr<c10::BFloat16>()),
        avx512_bf16);
  } else {
    const auto x = x_TI.to(at::kFloat).contiguous();
    const auto kernel = [&](const auto& rows) { widened(rows, isa); };
    if (weight_is_bf16)
      run(rows_of(x.const_data_ptr<float>(), weight.const_data_ptr<c10::BFloat16>()), kernel);
    else
      run(rows_of(x.const_data_ptr<float>(), weight.const_data_ptr<float>()), kernel);
  }
  if (bias_O) y_TO.add_(*bias_O);
  return y_TO.to(x_TI.scalar_type());
}

at::Tensor matvec_reference(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                            const std::optional<at::Tensor>& bias_O) {
  check(x_TI, weight_OI, bias_O);
  auto y_TO = at::matmul(x_TI.to(at::kDouble), weight_OI.to(at::kDouble).t());
  if (bias_O) y_TO.add_(*bias_O);
  return y_TO;
}

}  // namespace tailor::models::kernels
