#pragma once

#include <functional>
#include <span>
#include <string>

#include "peft/lora.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/parallel/gradient_sync.hpp"
#include "trainer/parallel/pipeline.hpp"
#include "trainer/sft/micro_batch.hpp"
#include "trainer/sft/optimizer.hpp"

namespace tailor::trainer {

/// Summed loss of a micro-batch whose first token has number `first_token` within the step.
using BatchLoss = std::function<SummedLoss(const LabelledBatch& batch, std::int64_t first_token)>;

/// Dropout on for one forward.
class DropoutScope {
 public:
  DropoutScope(peft::LoraAdapter& adapter, const peft::DropoutState& state)
      : adapter_(adapter), state_(state) {
    adapter_.set_dropout(&state_);
  }
  ~DropoutScope() { adapter_.set_dropout(nullptr); }
  DropoutScope(const DropoutScope&) = delete;
  DropoutScope& operator=(const DropoutScope&) = delete;

 private:
  peft::LoraAdapter& adapter_;
  const peft::DropoutState state_;
};

struct StepSettings {
  std::int64_t step = 0;  // for messages, from 1
  double learning_rate = 0.0;
  double max_grad_norm = 0.0;  // 0: no clipping
  std::int64_t micro_batch_tokens = 1024, row_multiple = 1;
  std::int64_t first_token = 0;  // number within the step, over all ranks, of this rank's first
  models::ExpertCapacity expert_capacity = {};
};

struct StepReport {
  double loss = 0.0;       // mean over the supervised tokens of all micro-batches and ranks
  double grad_norm = 0.0;  // before clipping
  std::int64_t num_tokens = 0, num_supervised = 0, num_correct = 0;  // of all ranks
};

/// Forward and backward of all micro-batches of a step, `share` times the summed loss. Every
/// backward runs in `reduction`, which begins to sum over ranks in the last; a pass calls
/// begin_rest() before calls of its own over data ranks.
using StepPass = std::function<LossSums(std::span<const NumberedBatch> batches,
                                        const at::Tensor& share, GradientReduction& reduction)>;
StepPass one_by_one(BatchLoss batch_loss);
/// Over the stages of a pipeline, with dropout masks as adapted_loss() has them.
StepPass in_stages(models::CausalLM& model, peft::LoraAdapter& adapter, std::uint64_t seed,
                   std::int64_t step, const distributed::Mesh& mesh,
                   const VocabularyPart& vocabulary);

/// For one step's backward passes; `sync` and `trainable` outlive it.
GradientReduction reduction_of(const GradientSync& sync, FlatParameters& trainable);
/// Behind the last backward of a step: waits for the sum over ranks, clips, checks, updates.
/// Answers the gradients' norm before clipping. Throws NumericError, before the parameters are
/// touched, where it is not finite.
double apply_gradients(FlatParameters& trainable, AdamW& optimizer, GradientReduction& reduction,
                       const StepSettings& settings);
/// Throws NumericError with the number of the step.
[[noreturn]] void fail_step(std::int64_t step, const std::string& what);
/// The same of a quantity that is not finite: "step 3: the loss is NaN".
[[noreturn]] void fail_step(std::int64_t step, const std::string& quantity, double value);

/// One optimizer step over `documents`, this rank's share: zero, count, forward and backward a
/// micro-batch, reduce while the last backward runs, clip, check, update. Every supervised token
/// weighs the same, however the documents are cut. Throws NumericError, before the parameters are
/// touched, where no token is supervised and where the loss or the gradient norm is not finite.
/// Where experts are spread over ranks, a rank that has fewer micro-batches joins in with empty
/// ones, since the exchange of rows needs all of them.
StepReport sft_step(const StepPass& pass, FlatParameters& trainable, AdamW& optimizer,
                    std::span<const Example* const> documents, const GradientSync& sync,
                    const StepSettings& settings);

/// The loss of a model with its adapter, dropout masks numbered by (seed, step, token).
BatchLoss adapted_loss(const models::CausalLM& model, peft::LoraAdapter& adapter,
                       std::uint64_t seed, std::int64_t step,
                       const VocabularyPart& vocabulary = {});

}  // namespace tailor::trainer
