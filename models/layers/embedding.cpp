#include "models/layers/embedding.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/index_select.h>
#include <c10/util/Exception.h>

namespace tailor::models {

Embedding::Embedding(std::int64_t vocab_size, std::int64_t hidden_size)
    : vocab_size_(vocab_size), hidden_size_(hidden_size) {
  add_parameter("weight", {vocab_size, hidden_size}, weight_);
}

void Embedding::shard(std::int64_t index, std::int64_t count) {
  TORCH_CHECK_VALUE(vocab_size_ % count == 0, "embedding: a vocabulary of ", vocab_size_, " in ",
                    count, " equal parts");
  TORCH_CHECK_VALUE(!weight_.defined(), "embedding: sharded behind loading");
  const auto length = vocab_size_ / count;
  first_ = index * length;
  clear_parameters();
  add_parameter("weight", {vocab_size_, hidden_size_}, weight_, Slice{0, first_, length});
}

at::Tensor Embedding::forward(const at::Tensor& ids_T, at::ScalarType dtype) const {
  if (weight_.size(0) == vocab_size_) return weight_.index_select(0, ids_T).to(dtype);
  TORCH_CHECK_INDEX(ids_T.numel() == 0 || (ids_T.min().item<std::int64_t>() >= 0 &&
                                           ids_T.max().item<std::int64_t>() < vocab_size_),
                    "embedding: an id outside the vocabulary of ", vocab_size_);
  const auto local_T = ids_T - first_;
  const auto elsewhere_T = (local_T < 0).logical_or_(local_T >= weight_.size(0));
  auto rows_TD = weight_.index_select(0, local_T.masked_fill(elsewhere_T, 0)).to(dtype);
  return rows_TD.masked_fill_(elsewhere_T.unsqueeze(1), 0);
}

}  // namespace tailor::models
