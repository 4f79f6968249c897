#include "trainer/losses/head_rows.hpp"

#include <ATen/ops/constant_pad_nd.h>

#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

at::Tensor filled_up(const at::Tensor& rows_CD, models::kernels::Arithmetic arithmetic) {
  const auto multiple = row_multiple(arithmetic);
  const auto over = rows_CD.size(0) % multiple;
  return over == 0 ? rows_CD : at::constant_pad_nd(rows_CD, {0, 0, 0, multiple - over});
}

}  // namespace tailor::trainer
