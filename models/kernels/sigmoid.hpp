#pragma once

#include <ATen/core/Tensor.h>

namespace tailor::models::kernels {

/// 1 / (1 + exp(-x)), of any shape, in the dtype of x. In host memory and where autograd does not
/// record, an element of a float32 or bfloat16 tensor has the same bits whatever stands beside it,
/// as decoding needs; at::sigmoid takes another function for a tensor's last elements than for
/// those that fill vectors.
at::Tensor sigmoid(const at::Tensor& x);

}  // namespace tailor::models::kernels
