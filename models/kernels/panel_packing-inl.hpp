// Copies of matrices in the order in which tiles of kernels/tiled_gemm read them. Included inside
// foreach_target, hence the toggled guard.
#if defined(TAILOR_PANEL_PACKING_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef TAILOR_PANEL_PACKING_INL_HPP
#undef TAILOR_PANEL_PACKING_INL_HPP
#else
#define TAILOR_PANEL_PACKING_INL_HPP
#endif

#include <algorithm>

#include "models/kernels/simd-inl.hpp"
#include "models/kernels/tiled_gemm.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

/// Columns of a panel: two vectors.
constexpr std::int64_t kWidth = 2 * static_cast<std::int64_t>(hn::MaxLanes(Floats()));

HWY_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

#if HWY_TARGET != HWY_SCALAR
/// 4 x 4 of them: rows of `from`, `stride` apart, become columns of `to`.
HWY_INLINE void transpose_4x4(const float* from, std::int64_t stride, float factor, float* to) {
  const hn::FixedTag<float, 4> d;
  const auto factors = hn::Set(d, factor);
  const auto row = [&](int i) { return hn::Mul(factors, hn::LoadU(d, from + i * stride)); };
  const auto r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
  const auto low01 = hn::InterleaveLower(d, r0, r1), low23 = hn::InterleaveLower(d, r2, r3);
  const auto high01 = hn::InterleaveUpper(d, r0, r1), high23 = hn::InterleaveUpper(d, r2, r3);
  hn::StoreU(hn::ConcatLowerLower(d, low23, low01), d, to);
  hn::StoreU(hn::ConcatUpperUpper(d, low23, low01), d, to + kWidth);
  hn::StoreU(hn::ConcatLowerLower(d, high23, high01), d, to + 2 * kWidth);
  hn::StoreU(hn::ConcatUpperUpper(d, high23, high01), d, to + 3 * kWidth);
}
#endif

/// Columns of B, times `factor`, as panels.
struct Packing {
  MatrixView b;  // from the first column on
  std::int64_t k, columns;
  float factor;
  float* panels;
  std::int64_t panel_elements;  // from one panel to the next
};

/// Memory is asked for so many rows or columns ahead: a panel takes a short piece of each, behind
/// which the processor does not look. Columns that far lie in the next panel, all of them or, where
/// a panel is 32 wide, half: they come from the second-level cache then. Behind the last ones the
/// address may be of nothing, which a prefetch allows.
constexpr std::int64_t kAhead = 16;

/// Whole panels of a B whose rows lie in one piece.
HWY_INLINE void pack_rows_of_memory(const Packing& to, std::int64_t num_panels) {
  const Floats d;
  const auto factors = hn::Set(d, to.factor);
  for (std::int64_t j = 0; j < num_panels; ++j) {
    const auto* from = to.b.data + j * kWidth;
    auto* panel = to.panels + j * to.panel_elements;
    for (std::int64_t p = 0; p < to.k; ++p, from += to.b.row_stride, panel += kWidth) {
      __builtin_prefetch(from + kAhead * to.b.row_stride);
      __builtin_prefetch(from + kAhead * to.b.row_stride + kWidth - 1);
      hn::Store(hn::Mul(factors, hn::LoadU(d, from)), d, panel);
      hn::Store(hn::Mul(factors, hn::LoadU(d, from + kWidth / 2)), d, panel + kWidth / 2);
    }
  }
}

/// Whole panels of a B whose columns lie in one piece; the answer is the row up to which.
HWY_INLINE std::int64_t pack_columns_of_memory([[maybe_unused]] const Packing& to,
                                               [[maybe_unused]] std::int64_t num_panels) {
#if HWY_TARGET == HWY_SCALAR
  return 0;
#else
  constexpr std::int64_t kRun = 64;  // of a column at a time, for the prefetcher
  const auto k = to.k / 4 * 4, stride = to.b.column_stride;
  for (std::int64_t panel = 0; panel < num_panels; ++panel)
    for (std::int64_t run = 0; run < k; run += kRun) {
      const auto end = std::min(k, run + kRun);
      for (std::int64_t j = 0; j < kWidth; j += 4) {
        const auto* const columns = to.b.data + (panel * kWidth + j) * stride;
        for (auto i = kAhead; i < kAhead + 4; ++i)
          for (auto p = run; p < end; p += 16) __builtin_prefetch(columns + i * stride + p);
        for (auto p = run; p < end; p += 4)
          transpose_4x4(columns + p, stride, to.factor,
                        to.panels + panel * to.panel_elements + p * kWidth + j);
      }
    }
  return k;
#endif
}

/// All of them; behind the last column there are zeros.
HWY_INLINE void pack(const Packing& to) {
  const auto whole = to.columns / kWidth;
  std::int64_t row = 0;  // of the whole panels, the first that is left
  if (to.b.column_stride == 1) {
    pack_rows_of_memory(to, whole);
    row = to.k;
  } else if (to.b.row_stride == 1) {
    row = pack_columns_of_memory(to, whole);
  }
  for (std::int64_t j = 0; j < ceil_div(to.columns, kWidth) * kWidth; ++j) {
    auto* const column = to.panels + j / kWidth * to.panel_elements + j % kWidth;
    const auto* const from = to.b.data + j * to.b.column_stride;
    for (auto p = j < whole * kWidth ? row : 0; p < to.k; ++p)
      column[p * kWidth] = j < to.columns ? to.factor * from[p * to.b.row_stride] : 0.0F;
  }
}

/// Rows of A that do not lie in a row each: copied so that a tile reads them one after the other.
HWY_INLINE void pack_rows(const float* a, const MatrixView& strides, std::int64_t rows,
                          std::int64_t k, float* to) {
  for (std::int64_t p = 0; p < k; ++p, a += strides.column_stride, to += rows) {
    if (strides.row_stride == 1)
      std::copy_n(a, rows, to);
    else
      for (std::int64_t i = 0; i < rows; ++i) to[i] = a[i * strides.row_stride];
  }
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
