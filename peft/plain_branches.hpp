#pragma once

#include "peft/grouped_branches.hpp"

/// The functions of grouped_branches.hpp in tensor operations alone, for tensors on any device. In
/// bfloat16, where ranks and features are multiples of 8, all experts are one product
/// (at::_grouped_mm): then h and dh are rounded to bfloat16 before they are multiplied, as are the
/// factors, and a gradient is rounded to it once a call. Else products are float32, one an expert.
namespace tailor::peft::plain {

void add_branches_(const at::Tensor& x_MI, std::span<const std::int64_t> offsets,
                   std::span<const Branch> branches, at::Tensor& h_MS, std::span<at::Tensor> y);
void lower_branches_(std::span<const std::int64_t> offsets, std::span<const Branch> branches,
                     std::span<const at::Tensor> dy, at::Tensor& dh_MS, at::Tensor& dx_MI);
void add_sums_(std::span<const std::int64_t> offsets, std::span<const FactorSum> sums);

}  // namespace tailor::peft::plain
