#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace tailor::models::kernels {

/// What products of matrices become where one of them has a single column: passes over rows that
/// read and write each number once, for which a GEMM has no fast path. Raw memory, row-major, on
/// the calling thread, sums in float32; ldx, ldh and ldy are the distances of two rows in elements.
/// T is float or c10::BFloat16.

/// h[m] = alpha x_m . a, for x (m, size).
template <class T>
void row_dots(std::int64_t rows, std::int64_t size, float alpha, const T* x, std::int64_t ldx,
              const float* a, float* h, std::int64_t ldh);
/// y_m += alpha h[m] b, for y (m, size); rounded once.
template <class T>
void add_to_rows(std::int64_t rows, std::int64_t size, float alpha, const float* h,
                 std::int64_t ldh, const float* b, T* y, std::int64_t ldy);
/// c += alpha sum_m h[m] x_m, for x (m, size).
template <class T>
void sum_of_rows(std::int64_t rows, std::int64_t size, float alpha, const float* h,
                 std::int64_t ldh, const T* x, std::int64_t ldx, float* c);

}  // namespace tailor::models::kernels
