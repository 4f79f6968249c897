#pragma once

#include "peft/grouped_branches.hpp"

/// The functions of grouped_branches.hpp in tensor operations alone, for tensors on any device. In
/// bfloat16, where ranks and features are multiples of 8, all experts are one product
/// (at::_grouped_mm): then h and dh are rounded to bfloat16 before they are multiplied, as are the
/// factors, and a gradient is rounded to it once a call. Else products are float32, one an expert.
namespace tailor::peft::plain {

decltype(peft::add_branches_) add_branches_;
decltype(peft::lower_branches_) lower_branches_;
decltype(peft::add_sums_) add_sums_;

}  // namespace tailor::peft::plain
