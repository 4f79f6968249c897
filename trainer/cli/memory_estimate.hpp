#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "peft/lora.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/data/dataset.hpp"

namespace tailor::trainer::cli {

/// Dimensions of a model that its memory follows from; taken before an adapter is seated.
struct ModelSize {
  std::int64_t parameters = 0;
  std::int64_t linear_values = 0;  // of the linear layers' weights, a tied head's among them
  std::int64_t saved_values = 0;   // that backward needs of one token
  std::int64_t answer_values = 0;  // of the linear layers to one token, the head's aside
  std::int64_t vocab_size = 0;
};
ModelSize measure(models::CausalLM& model);

struct MemoryEstimate {
  struct Part {
    std::string name;
    std::int64_t bytes;
  };
  std::vector<Part> parts;
  std::int64_t total() const;
};

/// Peak of training, from dimensions alone: base weights, their float32 copies, adapter with
/// gradients and moments, activations of the largest micro-batch, logits, and the program itself.
/// Of GRPO: the tokens of a batch of rollouts, and how much may be kept of their forwards
/// (reused_forward_bytes()).
MemoryEstimate estimate_memory(const ModelSize& size, const peft::LoraAdapter& adapter,
                               const Dataset& train, const Precision& precision,
                               std::int64_t sampled_tokens = 0, std::int64_t reused_bytes = 0);

}  // namespace tailor::trainer::cli
