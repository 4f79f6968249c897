#include "peft/thin_products.hpp"

#include <c10/util/BFloat16.h>

#include "models/kernels/matvec.hpp"
#include "models/kernels/row_products.hpp"
#include "models/kernels/small_gemm.hpp"
#include "models/kernels/tiled_gemm.hpp"

namespace tailor::peft {
namespace {

using c10::BFloat16;
using models::kernels::gemm_nn;
using models::kernels::gemm_nt;
using models::kernels::gemm_tn;

struct Rows {
  const float* values;
  std::int64_t ld;
};

Rows as_float(const ThinShape& /*shape*/, const float* x, std::int64_t ldx,
              std::vector<float>& /*scratch*/) {
  return {x, ldx};
}

Rows as_float(const ThinShape& shape, const BFloat16* x, std::int64_t ldx,
              std::vector<float>& scratch) {
  scratch.resize(static_cast<std::size_t>(shape.rows * shape.features));
  auto* out = scratch.data();
  for (std::int64_t m = 0; m < shape.rows; ++m)
    for (std::int64_t i = 0; i < shape.features; ++i) *out++ = static_cast<float>(x[m * ldx + i]);
  return {scratch.data(), shape.features};
}

/// c = alpha a b^T + beta c. Few rows: like kernels::matvec(), with the same bits for a row
/// whatever rows stand beside it, since tiled_gemm() copies a turned factor; MKL's product has not.
void times_turned(std::int64_t rows, std::int64_t n, std::int64_t k, float alpha, const float* a,
                  std::int64_t lda, const float* b, float beta, float* c, std::int64_t ldc) {
  if (rows <= models::kernels::kMatvecMaxTokens)
    models::kernels::tiled_gemm(rows, n, k, alpha, {a, lda, 1}, {b, 1, k}, beta, c, ldc);
  else
    gemm_nt(rows, n, k, alpha, a, lda, b, k, beta, c, ldc);
}

void update(Factor factor, const ThinShape& shape, float alpha, const float* h, std::int64_t ldh,
            const float* values, float beta, float* x, std::int64_t ldx) {
  const auto [rows, features, rank] = shape;
  if (factor == Factor::A) {
    gemm_nn(rows, features, rank, alpha, h, ldh, values, features, beta, x, ldx);
  } else {
    times_turned(rows, features, rank, alpha, h, ldh, values, beta, x, ldx);
  }
}

void update_rows(Factor factor, const ThinShape& shape, float alpha, const float* h,
                 std::int64_t ldh, const float* values, float* x, std::int64_t ldx,
                 std::vector<float>& /*scratch*/) {
  update(factor, shape, alpha, h, ldh, values, /*beta=*/1.0F, x, ldx);
}

void update_rows(Factor factor, const ThinShape& shape, float alpha, const float* h,
                 std::int64_t ldh, const float* values, BFloat16* x, std::int64_t ldx,
                 std::vector<float>& scratch) {
  scratch.resize(static_cast<std::size_t>(shape.rows * shape.features));
  update(factor, shape, alpha, h, ldh, values, /*beta=*/0.0F, scratch.data(), shape.features);
  const auto* delta = scratch.data();
  for (std::int64_t m = 0; m < shape.rows; ++m)
    for (std::int64_t i = 0; i < shape.features; ++i)
      x[m * ldx + i] = BFloat16(static_cast<float>(x[m * ldx + i]) + *delta++);
}

}  // namespace

template <class T>
void thin_product(Factor factor, const ThinShape& shape, double alpha, const T* x, std::int64_t ldx,
                  const float* values, float* h, std::int64_t ldh, std::vector<float>& scratch) {
  const auto [rows, features, rank] = shape;
  const auto scale = static_cast<float>(alpha);
  if (rank == 1) {
    models::kernels::row_dots(rows, features, scale, x, ldx, values, h, ldh);
    return;
  }
  const auto wide = as_float(shape, x, ldx, scratch);
  if (factor == Factor::A) {
    times_turned(rows, rank, features, scale, wide.values, wide.ld, values, 0.0F, h, ldh);
  } else {
    gemm_nn(rows, rank, features, scale, wide.values, wide.ld, values, rank, 0.0F, h, ldh);
  }
}

template <class T>
void thin_update(Factor factor, const ThinShape& shape, double alpha, const float* h,
                 std::int64_t ldh, const float* values, T* x, std::int64_t ldx,
                 std::vector<float>& scratch) {
  const auto scale = static_cast<float>(alpha);
  if (shape.rank == 1) {
    models::kernels::add_to_rows(shape.rows, shape.features, scale, h, ldh, values, x, ldx);
  } else {
    update_rows(factor, shape, scale, h, ldh, values, x, ldx, scratch);
  }
}

template <class T>
void thin_sum(Factor factor, const ThinShape& shape, double alpha, const float* h, std::int64_t ldh,
              const T* x, std::int64_t ldx, float* sum, std::int64_t ldsum,
              std::vector<float>& scratch) {
  const auto [rows, features, rank] = shape;
  const auto scale = static_cast<float>(alpha);
  if (rank == 1) {
    models::kernels::sum_of_rows(rows, features, scale, h, ldh, x, ldx, sum);
    return;
  }
  const auto wide = as_float(shape, x, ldx, scratch);
  if (factor == Factor::A) {
    gemm_tn(rank, features, rows, scale, h, ldh, wide.values, wide.ld, 1.0F, sum, ldsum);
  } else {
    gemm_tn(features, rank, rows, scale, wide.values, wide.ld, h, ldh, 1.0F, sum, ldsum);
  }
}

template void thin_product(Factor, const ThinShape&, double, const float*, std::int64_t,
                           const float*, float*, std::int64_t, std::vector<float>&);
template void thin_product(Factor, const ThinShape&, double, const BFloat16*, std::int64_t,
                           const float*, float*, std::int64_t, std::vector<float>&);
template void thin_update(Factor, const ThinShape&, double, const float*, std::int64_t,
                          const float*, float*, std::int64_t, std::vector<float>&);
template void thin_update(Factor, const ThinShape&, double, const float*, std::int64_t,
                          const float*, BFloat16*, std::int64_t, std::vector<float>&);
template void thin_sum(Factor, const ThinShape&, double, const float*, std::int64_t, const float*,
                       std::int64_t, float*, std::int64_t, std::vector<float>&);
template void thin_sum(Factor, const ThinShape&, double, const float*, std::int64_t,
                       const BFloat16*, std::int64_t, float*, std::int64_t, std::vector<float>&);

}  // namespace tailor::peft
