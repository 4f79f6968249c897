#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "peft/lora_config.hpp"

namespace tailor::trainer {

/// What a training step costs, and how near it is to the machine's limit.
struct StepSpeed {
  double seconds = 0.0;  // median of `runs` steps
  double tokens_per_second = 0.0;
  double parameters = 0.0;     // P: non-embedding weights and the head, as a token multiplies
  double share_of_peak = 0.0;  // 4 P tokens / (seconds x peak)
  double forward_s = 0.0, loss_s = 0.0, backward_s = 0.0, update_s = 0.0;
};

/// Trains `model` with LoRA on `rows` documents of `length` random tokens, all supervised.
/// `peak_gflops` is the machine's (bench/gemm.hpp).
StepSpeed measure_step(models::CausalLM& model, const peft::LoraConfig& lora, std::int64_t rows,
                       std::int64_t length, std::int64_t runs, double peak_gflops);

/// A model of SmolLM2-135M's shape with random weights, for a machine without model files.
std::unique_ptr<models::CausalLM> random_smollm2(at::ScalarType stored,
                                                 models::kernels::Arithmetic arithmetic);

}  // namespace tailor::trainer
