#pragma once

#include <ATen/core/Tensor.h>

#include "models/kernels/arithmetic.hpp"

namespace tailor::trainer {

/// Rows of logits that exist at a time: enough for the head's products to run at their peak, few
/// enough that the logits stay small (256 x 49,152 float32: 48 MiB).
constexpr std::int64_t kChunkRows = 256;

/// Rows with rows of zeros behind them, to a number that is a row_multiple(): itself where it is.
at::Tensor filled_up(const at::Tensor& rows_CD, models::kernels::Arithmetic arithmetic);

}  // namespace tailor::trainer
