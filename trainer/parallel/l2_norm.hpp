#pragma once

#include <ATen/core/Tensor.h>

namespace tailor::trainer {

/// Euclidean norm, summed in double over fixed blocks: the same for any number of threads.
double l2_norm(const at::Tensor& flat);

}  // namespace tailor::trainer
