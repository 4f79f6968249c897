#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tailor::trainer {

/// Responses of a micro-batch, their tokens one after the other: response i is [offsets[i],
/// offsets[i + 1]) of the S rows. Tensors are (S), floating; log-probabilities are natural
/// logarithms, of the tokens sampled, under softmax(logits / temperature). What stands where the
/// mask is 0 is never looked at.
struct PolicyBatch {
  std::vector<std::int64_t> offsets;  // {0, ..., S}
  std::vector<double> advantages;     // one a response
  at::Tensor mask_S;                  // 1 where a token counts: not a tool's, not truncated
  at::Tensor logprobs_S;              // of the policy in training
  at::Tensor old_S;        // of the policy before the rollouts' first update; undefined: logprobs_S
  at::Tensor reference_S;  // undefined: no reference
  at::Tensor sampler_S;    // as the sampler computed them; undefined: old_S
  at::Tensor weights_S;    // correction_weights(); undefined: 1
  at::Tensor policy_mask_S;  // high_entropy_mask(); undefined: 1
};

/// Throws std::invalid_argument where offsets do not rise from 0 or there is not one advantage a
/// response.
void check_responses(const PolicyBatch& batch);

/// The rows of (S) as float64 on the CPU. Throws std::invalid_argument, naming the tensor, where it
/// has other than `size` rows.
class Rows {
 public:
  Rows(const std::string& name, const at::Tensor& tensor_S, std::int64_t size);
  double operator[](std::int64_t row) const { return data_[row]; }

 private:
  at::Tensor values_;
  const double* data_;
};

}  // namespace tailor::trainer
