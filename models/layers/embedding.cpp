#include "models/layers/embedding.hpp"

#include <ATen/ops/index_select.h>

namespace tailor::models {

Embedding::Embedding(std::int64_t vocab_size, std::int64_t hidden_size) {
  add_parameter("weight", {vocab_size, hidden_size}, weight_);
}

at::Tensor Embedding::forward(const at::Tensor& ids_T, at::ScalarType dtype) const {
  return weight_.index_select(0, ids_T).to(dtype);
}

}  // namespace tailor::models
