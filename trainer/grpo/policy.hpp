#pragma once

#include <functional>
#include <span>
#include <vector>

#include "distributed/mesh.hpp"
#include "models/families/causal_lm.hpp"
#include "models/generation/forward_record.hpp"
#include "peft/lora.hpp"
#include "trainer/grpo/completion_batch.hpp"
#include "trainer/grpo/grpo_config.hpp"
#include "trainer/grpo/prompt_source.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/losses/token_logprobs.hpp"
#include "trainer/sft/step.hpp"

namespace tailor::trainer {

/// What samples, what trains, and what both are told. Everything outlives it.
struct Policy {
  models::CausalLM& model;
  peft::LoraAdapter& adapter;
  const GrpoConfig& config;
  const std::vector<PromptRow>& rows;
  const distributed::Mesh& mesh;
  VocabularyPart vocabulary;
};

/// The base alone while one lives: the reference, without a second model.
class AdapterOff {
 public:
  explicit AdapterOff(peft::LoraAdapter& adapter) : adapter_(adapter) {
    adapter_.set_enabled(false);
  }
  ~AdapterOff() { adapter_.set_enabled(true); }
  AdapterOff(const AdapterOff&) = delete;
  AdapterOff& operator=(const AdapterOff&) = delete;

 private:
  peft::LoraAdapter& adapter_;
};

/// The completions cut into batches. Where ranks need each other in every forward, for experts or
/// parts of the base, each gets as many as the one that has most: the last ones are empty.
std::vector<CompletionBatch> completion_batches(const Policy& policy, std::span<Rollout> rollouts,
                                                const StepSettings& settings);

/// Log-probabilities of a batch's tokens from its hidden states. `hidden_SD` are the rows that
/// predict them, part of the graph where autograd is on.
struct Forward {
  at::Tensor hidden_SD;
  TokenLogprobs tokens;
  bool reused = false;  // what the sampler had computed
};
/// `record`, where it is given, is of the sampler's forwards by the weights of now: what it knows
/// is not computed again.
Forward forward(const Policy& policy, const CompletionBatch& batch, bool keep_logits,
                models::ForwardRecord* record = nullptr);

/// Measures every token of the completions without autograd and writes the log-probabilities to
/// `into`; `entropies`, where given, gets those of all tokens, in the order of the completions.
/// Collective over the ranks that share the model.
void measure(const Policy& policy, std::span<Rollout> rollouts, const StepSettings& settings,
             std::vector<float> Rollout::*into, std::vector<float>* entropies = nullptr,
             models::ForwardRecord* record = nullptr);

/// One value a token, those of one completion after the other; undefined where the completions have
/// none.
at::Tensor token_values(const CompletionBatch& batch, std::vector<float> Rollout::*from);

}  // namespace tailor::trainer
