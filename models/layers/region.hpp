#pragma once

#include <ATen/core/Tensor.h>

namespace tailor::models {

/// The edges of a block that several ranks compute together, each with a part of its matrices
/// (tensor parallelism; Shoeybi et al. 2019, arXiv:1909.08053). Inside, activations are whole and
/// answers are parts of a sum; every gradient of something that the ranks hold alike is a part of a
/// sum too. Between blocks a rank holds all tokens, or, where `scattered`, its T / size()
/// consecutive ones (sequence parallelism; Korthikanti et al. 2022, arXiv:2205.05198): norms and
/// residuals are then computed once.
class Region {
 public:
  virtual ~Region() = default;
  virtual std::int64_t size() const = 0;  // ranks
  /// What a rank holds between blocks -> all tokens (T, D). Backward adds the ranks' parts up.
  virtual at::Tensor enter(const at::Tensor& x_TD, bool scattered) = 0;
  /// A part of the answer for all tokens -> the sum, as it is held between blocks.
  virtual at::Tensor leave(const at::Tensor& part_TD, bool scattered) = 0;
};

}  // namespace tailor::models
