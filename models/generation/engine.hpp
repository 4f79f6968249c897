#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/generation/sampler.hpp"

namespace tailor::models {

enum class FinishReason { Stop, Length };

struct GenerationRequest {
  std::vector<std::int64_t> prompt_ids;
  std::int64_t num_completions = 1;   // of this prompt
  std::int64_t max_new_tokens = 256;  // fewer where the model's positions end
  std::int64_t min_new_tokens = 0;    // end tokens cannot be chosen before
  std::uint64_t sequence =
      0;  // number of the first completion's random stream; the next ones follow
};

struct Completion {
  std::vector<std::int64_t> ids;         // without the end token
  std::vector<float> logprobs;           // one an id, under softmax of the raw logits
  std::vector<float> sampling_logprobs;  // one an id, under what it was drawn from: see Sampled
  FinishReason finish_reason = FinishReason::Length;
  std::optional<Sampled> end_token;  // that was chosen; none: Stop was said by OnToken

  bool ended() const { return end_token.has_value(); }
};

struct GenerationOptions {
  SamplingConfig sampling;
  std::vector<std::int64_t> stop_ids;  // end tokens; empty: run to the length limit
  std::int64_t batch_size = 8;         // sequences decoded together
  std::int64_t prefill_tokens = 1024;  // prompt tokens computed in one forward
};

/// Called for every new token but an end token, in the order of each completion; answering false
/// ends that completion (FinishReason::Stop) behind the token, which is how stop strings work.
/// Completions are numbered request by request, those of one prompt one after the other.
using OnToken = std::function<bool(std::size_t completion, const Sampled& token)>;
/// Called once a completion, as soon as it is whole.
using OnCompletion = std::function<void(std::size_t index, const Completion& completion)>;

/// Continuous batching: prompts enter as slots fall free, decoded sequences advance together. The
/// completions are numbered as for OnToken and do not depend on the batch size beyond rounding.
/// Runs without autograd. Throws c10::ValueError for a prompt that is empty, exceeds the model's
/// positions or has ids beyond its vocabulary, NonFiniteLogits where logits are not finite.
std::vector<Completion> generate(const CausalLM& model,
                                 const std::vector<GenerationRequest>& requests,
                                 const GenerationOptions& options, const OnToken& on_token = {},
                                 const OnCompletion& on_completion = {});

}  // namespace tailor::models
