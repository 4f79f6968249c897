#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "models/kernels/isa.hpp"

namespace tailor::models::kernels {

/// Up to so many tokens W is read, once and in its own layout, rather than given to a general
/// matrix product: faster up to 32 tokens, and about as fast at 64. So what a sequence decodes does
/// not depend on how many others are decoded with it. In host memory.
constexpr std::int64_t kMatvecMaxTokens = 64;
bool takes_matvec(const at::Tensor& x_TI);

/// y = x W^T + bias, (T, I) -> (T, O), for few tokens: decoding. W is read once, as it is stored.
/// x: float32 or bfloat16, (T, I); W: float32 or bfloat16, rows contiguous; bias: either, (O).
/// Sums are float32; y has x's dtype. Products: bfloat16 by bfloat16 with Avx512Bf16 and Amx
/// (subnormals flushed; Amx where I is a multiple of 32 and O of 16), else float32. A token's
/// result has the same bits whatever tokens stand beside it and however many threads compute. Not
/// differentiable. Throws c10::ValueError for other shapes and dtypes.
at::Tensor matvec(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                  const std::optional<at::Tensor>& bias_O = {}, Isa isa = available_isas().back());

/// The same in plain operations, in float64.
at::Tensor matvec_reference(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                            const std::optional<at::Tensor>& bias_O = {});

}  // namespace tailor::models::kernels
