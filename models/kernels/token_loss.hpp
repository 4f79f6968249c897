#pragma once

#include <ATen/core/Tensor.h>

namespace tailor::models::kernels {

/// -log softmax(logits)[target] of each row, whether argmax hits the target, and in place of the
/// logits, where `gradient` is asked for, their gradient softmax(logits) - onehot(target).
/// logits (C, V) contiguous float32 or bfloat16, target (C) int64 in [0, V). Arithmetic float32.
struct TokenLosses {
  at::Tensor loss_C;     // float32
  at::Tensor correct_C;  // bool
};
TokenLosses token_loss_(at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient);
TokenLosses token_loss_reference_(at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient);

}  // namespace tailor::models::kernels
