#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/generation/sampler.hpp"
#include "models/layers/kv_cache.hpp"

namespace tailor::models {

enum class FinishReason { Stop, Length };

struct GenerationRequest {
  std::vector<std::int64_t> prompt_ids;
  std::int64_t num_completions = 1;   // of this prompt, which is computed once for all of them
  std::int64_t max_new_tokens = 256;  // fewer where the model's positions end
  std::int64_t min_new_tokens = 0;    // end tokens cannot be chosen before
  std::uint64_t sequence = 0;         // random stream of the first completion; the others' follow
};

struct Completion {
  std::vector<std::int64_t> ids;         // without the end token
  std::vector<float> logprobs;           // one an id, under softmax of the raw logits
  std::vector<float> sampling_logprobs;  // one an id, under what it was drawn from: see Sampled
  std::vector<float> whole_logprobs;     // one an id: see Sampled
  FinishReason finish_reason = FinishReason::Length;
  std::optional<Sampled> end_token;  // that was chosen; none: Stop was said by OnToken

  bool ended() const { return end_token.has_value(); }
};

/// Rows of one forward that are neighbours: tokens [first, first + count) of a prompt, or of prompt
/// and completion.
struct ForwardRows {
  std::size_t request;                    // whose prompt
  std::optional<std::size_t> completion;  // none: the prompt's, computed once for all
  std::int64_t first, count;
};

struct GenerationOptions {
  SamplingConfig sampling;
  std::vector<std::int64_t> stop_ids;  // end tokens; empty: run to the length limit
  std::int64_t batch_size = 8;         // sequences decoded together
  /// Tokens of prompts computed in one forward, beside one token of every running completion.
  std::int64_t prefill_tokens = 1024;
  /// Every prompt is computed in forwards of its own, and completions advance in others: then a
  /// completion is the same, bit for bit, whatever is generated beside it, up to
  /// kernels::kMatvecMaxTokens of them at a time and as long as none is put back. In host memory
  /// alone: a GPU's sums depend on the batch all the same, so prompts stay together there.
  bool prompts_apart = false;
  /// Tokens whose keys and values are held at a time, in blocks; 0: as many as batch_size sequences
  /// can have. Where it runs out, prompts wait, and the youngest completions are put back and
  /// computed again later.
  std::int64_t cache_tokens = 0;
  std::int64_t cache_block_size = KvCache::kBlockSize;

  /// Hears before every forward which tokens its rows are, in their order; of none before that of a
  /// rank without work.
  std::function<void(std::span<const ForwardRows> rows)> on_forward;

  /// Where every forward needs all ranks (sharded weights, experts on other ranks): whether any of
  /// them has work, asked by all at every step. A rank without work computes a dummy token along.
  std::function<bool(bool has_work)> any_rank;
  /// Where lm_head answers this rank's part of the vocabulary: (S, part of V) -> (S, V).
  std::function<at::Tensor(const at::Tensor& logits_SV)> whole_logits;
};

/// Called for every new token but an end token, in the order of each completion; answering false
/// ends that completion (FinishReason::Stop) behind the token, which is how stop strings work.
/// Completions are numbered request by request, those of one prompt one after the other.
using OnToken = std::function<bool(std::size_t completion, const Sampled& token)>;
/// Called once a completion, as soon as it is whole.
using OnCompletion = std::function<void(std::size_t index, const Completion& completion)>;

/// Continuous batching: prompts enter as places fall free, piece by piece where they are long, and
/// running completions advance by a token in every forward. The answers are numbered as for OnToken
/// and do not depend on the options of scheduling and memory beyond rounding; see prompts_apart.
/// Runs without autograd. Throws c10::ValueError for a prompt that is empty, exceeds the model's
/// positions, has ids beyond its vocabulary or could never fit into the cache; NonFiniteLogits
/// where logits are not finite.
std::vector<Completion> generate(const CausalLM& model,
                                 const std::vector<GenerationRequest>& requests,
                                 const GenerationOptions& options, const OnToken& on_token = {},
                                 const OnCompletion& on_completion = {});

}  // namespace tailor::models
