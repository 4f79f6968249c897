#include "trainer/bench/step.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>

#include "models/kernels/random.hpp"
#include "peft/lora.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/sft/micro_batch.hpp"
#include "trainer/sft/optimizer.hpp"

namespace tailor::trainer {
namespace {

// huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, config.json
constexpr const char* kSmolLm2 = R"({"model_type": "llama", "hidden_size": 576,
  "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
  "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
  "rms_norm_eps": 1e-5, "rope_theta": 100000, "hidden_act": "silu", "tie_word_embeddings": true})";

double multiplied_parameters(models::CausalLM& model) {
  double sum = 0.0;
  for (const auto& named : model.slots())
    sum += static_cast<double>(named.slot->layer().weight().stored().numel());
  const auto& head = model.lm_head().layer().weight().stored();
  const bool counted = !model.slots().empty() && model.slots().back().slot == &model.lm_head();
  return sum + (counted ? 0.0 : static_cast<double>(head.numel()));
}

std::vector<Example> random_documents(std::int64_t rows, std::int64_t length, std::int64_t vocab) {
  std::vector<Example> out;
  for (std::int64_t r = 0; r < rows; ++r) {
    Example e;
    for (std::int64_t t = 0; t < length; ++t) {
      const auto bits = models::kernels::random_bits(7, static_cast<std::uint64_t>(r),
                                                     static_cast<std::uint64_t>(t));
      e.ids.push_back(static_cast<std::int64_t>(bits % static_cast<std::uint64_t>(vocab)));
    }
    e.labels = e.ids;
    out.push_back(std::move(e));
  }
  return out;
}

FlatParameters::Named named_parameters(const peft::LoraAdapter& adapter) {
  FlatParameters::Named out;
  for (const auto& parameter : adapter.parameters())
    out.emplace_back("factor " + std::to_string(out.size()), parameter);
  return out;
}

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const auto seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace

StepSpeed measure_step(models::CausalLM& model, const peft::LoraConfig& lora, std::int64_t rows,
                       std::int64_t length, std::int64_t runs, double peak) {
  peft::LoraAdapter adapter(model, lora, /*seed=*/0);
  FlatParameters trainable(named_parameters(adapter));
  AdamW optimizer(trainable, {});
  const auto documents = random_documents(rows, length, model.shape().vocab_size);
  std::vector<const Example*> pointers;
  for (const auto& document : documents) pointers.push_back(&document);
  const auto batches = cut(pointers, micro_batch_tokens(model.arithmetic()));

  std::vector<StepSpeed> steps;
  for (std::int64_t run = 0; run < runs + 1; ++run) {  // the first warms up
    StepSpeed step;
    trainable.gradients().zero_();
    Stopwatch watch;
    for (const auto& micro_batch : batches) {
      const auto batch = make_batch(micro_batch.documents, row_multiple(model.arithmetic()));
      const auto hidden = model.hidden_states(batch);
      step.forward_s += watch.lap();
      const auto loss = summed_cross_entropy(model, hidden, batch.targets_T).loss;
      step.loss_s += watch.lap();
      (loss / static_cast<double>(rows * (length - 1))).backward();
      step.backward_s += watch.lap();
    }
    optimizer.update(trainable, 1e-4);
    step.update_s = watch.lap();
    step.seconds = step.forward_s + step.loss_s + step.backward_s + step.update_s;
    if (run > 0) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end(),
            [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
  auto out = steps[steps.size() / 2];
  const auto tokens = static_cast<double>(rows * length);
  out.tokens_per_second = tokens / out.seconds;
  out.parameters = multiplied_parameters(model);
  out.share_of_peak = 4.0 * out.parameters * tokens / (out.seconds * peak * 1e9);
  return out;
}

std::unique_ptr<models::CausalLM> random_smollm2(at::ScalarType stored,
                                                 models::kernels::Arithmetic arithmetic) {
  auto model = models::make_causal_lm(kSmolLm2, "SmolLM2-135M");
  for (const auto& parameter : model->parameters()) {
    *parameter.value = parameter.shape.size() == 1
                           ? at::ones(parameter.shape, stored)
                           : (at::randn(parameter.shape, at::kFloat) * 0.02).to(stored);
  }
  model->finish_loading(arithmetic);
  return model;
}

}  // namespace tailor::trainer
