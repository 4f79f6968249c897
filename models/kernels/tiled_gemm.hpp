#pragma once

#include <cstdint>

namespace tailor::models::kernels {

/// Element (i, j) lies at data[i * row_stride + j * column_stride].
struct MatrixView {
  const float* data;
  std::int64_t row_stride, column_stride;
};

/// A second product that joins the sum while it is in registers: + factor a b, of a (m, k) and
/// b (k, n).
struct JoinedProduct {
  MatrixView a{}, b{};
  std::int64_t k = 0;
  float factor = 1.0F;
};

/// C (m, n) = alpha (A (m, k) B (k, n) + joined) + beta C, float32, C's rows ldc apart and apart
/// from the operands; 0 beta does not read C. Any size may be 0. Tiles of C are summed in registers
/// over panels of B as wide as two vectors, copied for many rows, read in place for few (Goto and
/// van de Geijn 2008, Anatomy of high-performance matrix multiplication). In a parallel region it
/// runs on the calling thread. Each element is summed in one order whatever the number of threads,
/// but not whatever m: runs over k are shorter for few rows.
void tiled_gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const MatrixView& a,
                const MatrixView& b, float beta, float* c, std::int64_t ldc,
                const JoinedProduct& joined = {});

/// This processor is better served by tiled_gemm() than by libtorch's BLAS: MKL keeps AMD's
/// processors to kernels and block sizes that are not theirs.
bool prefers_tiled_gemm();
/// For benchmarks and tests that compare both; the answer is what it was before.
bool set_prefers_tiled_gemm(bool prefers);

}  // namespace tailor::models::kernels
