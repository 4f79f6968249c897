// Sizes: kRows x kWidth a tile of C, which a kernel keeps in registers; a panel: kWidth columns of
// B, one row after the other.
#include "models/kernels/tiled_gemm.hpp"

#ifndef TAILOR_TILED_GEMM_PRODUCT
#define TAILOR_TILED_GEMM_PRODUCT
namespace tailor::models::kernels {
namespace {

/// The arguments of tiled_gemm().
struct Product {
  std::int64_t m, n, k;
  float alpha, beta;
  MatrixView a, b;
  float* c;
  std::int64_t ldc;
  JoinedProduct joined;
};

}  // namespace
}  // namespace tailor::models::kernels
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/tiled_gemm.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <atomic>

#include "models/kernels/isa.hpp"
#include "models/kernels/panel_packing-inl.hpp"
#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

// Two vectors a row: with 32 registers 24 of them hold sums, with 16 twelve.
constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? 12 : 6;

/// What a tile multiplies: rows of A, and of B a panel, packed or where B itself lies.
struct Factors {
  const float* a;
  std::int64_t row_stride, column_stride;
  const float* panel;
  std::int64_t panel_stride;
  std::int64_t k;
};

struct Scales {
  float alpha, beta;
};

template <int rows>
HWY_INLINE void add_products(const Factors& f, VFloats (&left)[rows], VFloats (&right)[rows]) {
  const Floats d;
  const auto lanes = hn::Lanes(d);
  const auto* a = f.a;
  const auto* b = f.panel;
  for (std::int64_t p = 0; p < f.k; ++p, a += f.column_stride, b += f.panel_stride) {
    const auto b0 = hn::LoadU(d, b), b1 = hn::LoadU(d, b + lanes);
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) {
      const auto factor = hn::Set(d, a[i * f.row_stride]);
      left[i] = hn::MulAdd(factor, b0, left[i]);
      right[i] = hn::MulAdd(factor, b1, right[i]);
    }
  }
}

/// One tile: c = alpha (a panel + joined) + beta c.
template <int rows>
HWY_INLINE void tile(const Factors& f, const Factors& joined, Scales scales, float* c,
                     std::int64_t ldc) {
  const Floats d;
  const auto lanes = hn::Lanes(d);
  VFloats left[rows], right[rows];
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i) {
    __builtin_prefetch(c + i * ldc, 1);  // on their way while the sums are made
    __builtin_prefetch(c + i * ldc + kWidth - 1, 1);
    left[i] = right[i] = hn::Zero(d);
  }
  add_products<rows>(f, left, right);
  if (joined.k > 0) add_products<rows>(joined, left, right);
  const auto alpha = hn::Set(d, scales.alpha), beta = hn::Set(d, scales.beta);
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i) {
    auto* const row = c + i * ldc;
    auto l = hn::Mul(alpha, left[i]), r = hn::Mul(alpha, right[i]);
    if (scales.beta != 0.0F) {
      l = hn::MulAdd(beta, hn::LoadU(d, row), l);
      r = hn::MulAdd(beta, hn::LoadU(d, row + lanes), r);
    }
    hn::StoreU(l, d, row);
    hn::StoreU(r, d, row + lanes);
  }
}

template <int rows = kRows>
HWY_INLINE void tile_of(int count, const Factors& f, const Factors& joined, Scales scales, float* c,
                        std::int64_t ldc) {
  if (count == rows) return tile<rows>(f, joined, scales, c, ldc);
  if constexpr (rows > 1) tile_of<rows - 1>(count, f, joined, scales, c, ldc);
}

/// A tile at the right edge, of which C has `columns` only.
void edge_tile(int count, const Factors& f, const Factors& joined, Scales scales, float* c,
               std::int64_t ldc, std::int64_t columns) {
  float whole[kRows * 2 * HWY_MAX_BYTES / sizeof(float)];
  tile_of(count, f, joined, {scales.alpha, 0.0F}, whole, kWidth);
  for (int i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < columns; ++j) {
      auto& to = c[i * ldc + j];
      to = whole[i * kWidth + j] + (scales.beta != 0.0F ? scales.beta * to : 0.0F);
    }
}

/// Sums of the first run over k replace or scale C, the later ones add to it; the joined product
/// comes with the last.
struct Block {
  std::int64_t k_begin, k;
  Scales scales;
  std::int64_t joined_k;
};

// A panel of so many rows takes 48 KiB in the second cache with two vectors of 8 lanes; longer sums
// in registers write C less often.
constexpr std::int64_t kDepth = 768;
// 144 KiB of A beside it, read once a panel.
constexpr std::int64_t kRowsABand = 48;
// Panels that threads share: 4 MiB of the last cache. Of one thread alone: 256 KiB of its second.
constexpr std::int64_t kSharedElements = std::int64_t{1} << 20;
constexpr std::int64_t kThreadElements = std::int64_t{1} << 16;
// With fewer products the threads take longer to wake than to multiply.
constexpr std::int64_t kParallelProducts = 1 << 17;
// With fewer tiles of rows the threads would not end together: they have columns instead.
constexpr std::int64_t kTilesAThread = 4;
// Up to so many tiles of rows a copy of B would take as long as the products. Of B itself they read
// 16 KiB at a time, which stay in the first cache until the last tile has read them.
constexpr std::int64_t kThinTiles = 3, kThinDepth = 256;

Block block_of(const Product& p, std::int64_t index, std::int64_t count) {
  const auto begin = p.k * index / count, end = p.k * (index + 1) / count;
  return {begin,
          end - begin,
          {p.alpha, index == 0 ? p.beta : 1.0F},
          index + 1 == count ? p.joined.k : 0};
}

std::int64_t panel_elements(const Block& block) { return (block.k + block.joined_k) * kWidth; }

/// Panels [from, to) into `packed`.
void pack_panels(const Product& p, const Block& block, std::int64_t from, std::int64_t to,
                 float* packed) {
  const auto column = from * kWidth, columns = std::min(to * kWidth, p.n) - column;
  const auto behind = [column](const MatrixView& b, std::int64_t row) {
    return MatrixView{b.data + row * b.row_stride + column * b.column_stride, b.row_stride,
                      b.column_stride};
  };
  const auto elements = panel_elements(block);
  pack({behind(p.b, block.k_begin), block.k, columns, 1.0F, packed, elements});
  if (block.joined_k > 0)
    pack({behind(p.joined.b, 0), block.joined_k, columns, p.joined.factor,
          packed + block.k * kWidth, elements});
}

float* grown(hwy::AlignedFreeUniquePtr<float[]>& buffer, std::size_t& size, std::int64_t wanted) {
  if (size < static_cast<std::size_t>(wanted)) {
    buffer = hwy::AllocateAligned<float>(static_cast<std::size_t>(wanted));
    size = buffer == nullptr ? 0 : static_cast<std::size_t>(wanted);
    TORCH_CHECK(buffer != nullptr, "tiled_gemm: no memory for ", wanted * 4, " bytes");
  }
  return buffer.get();
}

/// Panels one after the other: packed, or B itself.
struct Panels {
  const float* first;
  std::int64_t to_next, row_stride;
};

Panels packed_panels(const float* packed, const Block& block) {
  return {packed, panel_elements(block), kWidth};
}

/// Tiles [first, last) of rows, times panels [panel, panel_end), which `b` holds.
void multiply(const Product& p, const Block& block, std::int64_t first, std::int64_t last,
              std::int64_t panel, std::int64_t panel_end, const Panels& b) {
  thread_local hwy::AlignedFreeUniquePtr<float[]> buffer;
  thread_local std::size_t buffer_size = 0;
  const bool copies = p.a.column_stride != 1;
  const auto row_end = std::min(last * kRows, p.m);
  for (auto row = first * kRows; row < row_end; row += kRowsABand) {
    const auto rows = std::min(kRowsABand, row_end - row);
    const auto* a = p.a.data + row * p.a.row_stride + block.k_begin * p.a.column_stride;
    MatrixView view{a, p.a.row_stride, 1};
    if (copies) {
      auto* const copy = grown(buffer, buffer_size, kRowsABand * kDepth);
      pack_rows(a, p.a, rows, block.k, copy);
      view = {copy, 1, rows};
    }
    for (auto j = panel; j < panel_end; ++j) {
      const auto* const from = b.first + (j - panel) * b.to_next;
      const auto columns = std::min(kWidth, p.n - j * kWidth);
      for (std::int64_t i = 0; i < rows; i += kRows) {
        const auto count = static_cast<int>(std::min<std::int64_t>(kRows, rows - i));
        const Factors factors{view.data + i * view.row_stride,
                              view.row_stride,
                              view.column_stride,
                              from,
                              b.row_stride,
                              block.k};
        Factors joined{};
        if (block.joined_k > 0)
          joined = {p.joined.a.data + (row + i) * p.joined.a.row_stride,
                    p.joined.a.row_stride,
                    p.joined.a.column_stride,
                    from + block.k * kWidth,
                    kWidth,
                    block.joined_k};
        auto* const c = p.c + (row + i) * p.ldc + j * kWidth;
        if (columns == kWidth)
          tile_of(count, factors, joined, block.scales, c, p.ldc);
        else
          edge_tile(count, factors, joined, block.scales, c, p.ldc, columns);
      }
    }
  }
}

/// Packs and multiplies panels [first, last) in parts of which each fits `elements`, and for each
/// part all blocks of k in their order.
template <class Pack, class Multiply>
void each_part(const Product& p, std::int64_t first, std::int64_t last, std::int64_t elements,
               const Pack& pack_part, const Multiply& multiply_part) {
  thread_local hwy::AlignedFreeUniquePtr<float[]> buffer;
  thread_local std::size_t buffer_size = 0;
  const auto blocks = std::max<std::int64_t>(1, ceil_div(p.k, kDepth));
  const auto panel = (ceil_div(p.k, blocks) + p.joined.k) * kWidth, panels = last - first;
  const auto parts =
      ceil_div(panels, std::max<std::int64_t>(1, elements / std::max<std::int64_t>(1, panel)));
  auto* const packed = grown(buffer, buffer_size, ceil_div(panels, parts) * panel);
  for (std::int64_t part = 0; part < parts; ++part) {
    const auto begin = first + panels * part / parts, end = first + panels * (part + 1) / parts;
    for (std::int64_t i = 0; i < blocks; ++i) {
      const auto block = block_of(p, i, blocks);
      pack_part(block, begin, end, packed);
      multiply_part(block, begin, end, packed);
    }
  }
}

/// Panels [first, last) by the calling thread alone.
void columns_alone(const Product& p, std::int64_t first, std::int64_t last) {
  each_part(
      p, first, last, kThreadElements,
      [&](const Block& block, std::int64_t begin, std::int64_t end, float* packed) {
        pack_panels(p, block, begin, end, packed);
      },
      [&](const Block& block, std::int64_t begin, std::int64_t end, const float* packed) {
        multiply(p, block, 0, ceil_div(p.m, kRows), begin, end, packed_panels(packed, block));
      });
}

/// The same where rows are so few that copying B would cost more than it brings.
void thin_columns_alone(const Product& p, std::int64_t first, std::int64_t last) {
  const auto whole = std::min(last, p.n / kWidth), blocks = ceil_div(p.k, kThinDepth);
  for (std::int64_t i = 0; i < blocks && first < whole; ++i) {
    const auto block = block_of(p, i, blocks);
    const auto* const b = p.b.data + block.k_begin * p.b.row_stride + first * kWidth;
    multiply(p, block, 0, kThinTiles, first, whole, {b, kWidth, p.b.row_stride});
  }
  if (whole < last) columns_alone(p, whole, last);
}

/// All threads share the panels and have rows of their own.
void rows_together(const Product& p) {
  each_part(
      p, 0, ceil_div(p.n, kWidth), kSharedElements,
      [&](const Block& block, std::int64_t begin, std::int64_t end, float* packed) {
        at::parallel_for(begin, end, 1, [&](std::int64_t from, std::int64_t to) {
          pack_panels(p, block, from, to, packed + (from - begin) * panel_elements(block));
        });
      },
      [&](const Block& block, std::int64_t begin, std::int64_t end, const float* packed) {
        at::parallel_for(0, ceil_div(p.m, kRows), 1, [&](std::int64_t from, std::int64_t to) {
          multiply(p, block, from, to, begin, end, packed_panels(packed, block));
        });
      });
}

void gemm(const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  const auto tiles = ceil_div(p.m, kRows), panels = ceil_div(p.n, kWidth);
  const auto threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  const bool alone = threads == 1 || p.m * p.n * (p.k + p.joined.k) <= kParallelProducts;
  if (!alone && tiles >= kTilesAThread * threads) return rows_together(p);
  const bool thin = tiles <= kThinTiles && p.b.column_stride == 1 && p.k > 0 && p.joined.k == 0;
  const auto columns = thin ? thin_columns_alone : columns_alone;
  if (alone) return columns(p, 0, panels);
  at::parallel_for(0, panels, 1,
                   [&](std::int64_t first, std::int64_t last) { columns(p, first, last); });
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tailor::models::kernels {
namespace {

HWY_EXPORT(gemm);

std::atomic<bool>& preference() {
  static std::atomic<bool> prefers{__builtin_cpu_is("amd") && available_isas().size() > 1};
  return prefers;
}

}  // namespace

void tiled_gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const MatrixView& a,
                const MatrixView& b, float beta, float* c, std::int64_t ldc,
                const JoinedProduct& joined) {
  HWY_DYNAMIC_DISPATCH(gemm)({m, n, k, alpha, beta, a, b, c, ldc, joined});
}

bool prefers_tiled_gemm() { return preference(); }
bool set_prefers_tiled_gemm(bool prefers) { return preference().exchange(prefers); }

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
