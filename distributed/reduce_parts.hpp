#pragma once

#include <ATen/core/Tensor.h>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// `out_N` = the reduction of the R rows, which `out_N` is none of, in their order: equal rows give
/// equal bits. float16 and bfloat16 are reduced in float32 and rounded once.
void reduce_parts(const at::Tensor& parts_RN, Reduce op, const at::Tensor& out_N);

}  // namespace tailor::distributed
