#pragma once

#include <ATen/core/Tensor.h>

#include "models/layers/module.hpp"

namespace tailor::models {

/// A frozen table of token vectors; rows are taken as stored and cast.
class Embedding final : public Module {
 public:
  Embedding(std::int64_t vocab_size, std::int64_t hidden_size);

  /// Keeps the rows of one of `count` equal parts of the vocabulary, before loading: forward() then
  /// answers zeros for ids of other parts. Throws ValueError where the size is not divisible.
  void shard(std::int64_t index, std::int64_t count);

  /// (T) int64 -> (T, D) of `dtype`. Throws c10::IndexError for an id outside the vocabulary.
  at::Tensor forward(const at::Tensor& ids_T, at::ScalarType dtype) const;
  const at::Tensor& weight() const { return weight_; }
  std::int64_t first_id() const { return first_; }

 private:
  std::int64_t vocab_size_, hidden_size_;
  std::int64_t first_ = 0;  // id of the first row held
  at::Tensor weight_;       // (V, D) as stored, or this rank's rows
};

}  // namespace tailor::models
