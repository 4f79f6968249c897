#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/generation/sampler.hpp"

namespace tailor::models {

enum class FinishReason { Stop, Length };

struct GenerationRequest {
  std::vector<std::int64_t> prompt_ids;
  std::int64_t max_new_tokens = 256;  // fewer where the model's positions end
  std::int64_t min_new_tokens = 0;    // end tokens cannot be chosen before
  std::uint64_t sequence = 0;         // number of the random stream
};

struct Completion {
  std::vector<std::int64_t> ids;  // without the end token
  std::vector<float> logprobs;    // one an id
  FinishReason finish_reason;
};

struct GenerationOptions {
  SamplingConfig sampling;
  std::vector<std::int64_t> stop_ids;  // end tokens; empty: run to the length limit
  std::int64_t batch_size = 8;         // sequences decoded together
  std::int64_t prefill_tokens = 1024;  // prompt tokens computed in one forward
};

/// Called for every new token but an end token, in the order of each sequence; answering false ends
/// that sequence (FinishReason::Stop) behind the token, which is how stop strings work.
using OnToken = std::function<bool(std::size_t request, const Sampled& token)>;
/// Called once a request, as soon as its completion is whole.
using OnCompletion = std::function<void(std::size_t request, const Completion& completion)>;

/// Continuous batching: prompts enter as slots fall free, decoded sequences advance together. The
/// completions are in the order of the requests and do not depend on the batch size beyond
/// rounding. Runs without autograd. Throws c10::ValueError for a prompt that is empty, exceeds the
/// model's positions or has ids beyond its vocabulary, and where logits are not finite.
std::vector<Completion> generate(const CausalLM& model,
                                 const std::vector<GenerationRequest>& requests,
                                 const GenerationOptions& options, const OnToken& on_token = {},
                                 const OnCompletion& on_completion = {});

}  // namespace tailor::models
