#pragma once

#include <ATen/core/Tensor.h>

#include "models/layers/module.hpp"

namespace tailor::models {

/// A frozen table of token vectors; rows are taken as stored and cast.
class Embedding final : public Module {
 public:
  Embedding(std::int64_t vocab_size, std::int64_t hidden_size);

  /// (T) int64 -> (T, D) of `dtype`. Throws c10::IndexError for an id outside the vocabulary.
  at::Tensor forward(const at::Tensor& ids_T, at::ScalarType dtype) const;
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;  // (V, D) as stored
};

}  // namespace tailor::models
