#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace tailor::trainer {

/// Trainable parameters as views of one flat float32 tensor and their gradients as views of
/// another, where the parameters are: zeroing, reducing, clipping and stepping are one pass each,
/// and a gradient is always there. Made after the adapter is seated; no parameter may be replaced
/// afterwards. Writes to `values` are not seen by autograd's version check: update only behind the
/// last backward of a step.
class FlatParameters {
 public:
  using Named = std::vector<std::pair<std::string, at::Tensor>>;

  explicit FlatParameters(Named parameters);

  const Named& parameters() const { return parameters_; }
  at::Tensor& values() { return values_; }
  at::Tensor& gradients() { return gradients_; }
  const at::Tensor& values() const { return values_; }

  /// Views of a tensor laid out like values(), by name and in the parameters' shapes.
  Named views(const at::Tensor& flat) const;

 private:
  Named parameters_;
  at::Tensor values_, gradients_;
};

}  // namespace tailor::trainer
