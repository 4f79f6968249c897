#pragma once

#include <functional>
#include <span>

#include "distributed/mesh.hpp"
#include "models/layers/decoder.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/parallel/gradient_sync.hpp"

namespace tailor::trainer {

/// The layers of rank `index` of `count`: i L / count up to (i + 1) L / count of L. Throws
/// configs::ConfigError for more stages than layers.
models::Stage stage_of(std::int64_t num_layers, int index, int count);

/// A micro-batch and the number within the step of its first token.
struct NumberedBatch {
  LabelledBatch batch;
  std::int64_t first_token = 0;
};

/// What a stage makes of a micro-batch: what its layers answer, and perhaps a loss of its own, a
/// scalar that is not scaled.
struct StageOutput {
  at::Tensor out_TD, loss;  // loss undefined: none
};
/// What a stage computes around a forward: dropout on, for example. `forward` takes the item's
/// batch, or a copy that records routes.
using AroundForward = std::function<StageOutput(
    const NumberedBatch&, const std::function<at::Tensor(const models::Batch&)>& forward)>;

/// Forward and backward of all micro-batches through the stages of mesh.pp, each rank doing its
/// own: one forward, one backward in turn (1F1B; Narayanan et al. 2021, arXiv:2104.04473), so that
/// stage s of p holds the activations of at most p - s micro-batches. `share` scales the loss.
/// Every backward runs in `reduction`. Every rank passes the same batches; the answer is the
/// last stage's, zeros elsewhere. A boundary costs (T, D) a micro-batch and direction.
LossSums pipelined_pass(models::CausalLM& model, std::span<const NumberedBatch> batches,
                        const at::Tensor& share, const distributed::Mesh& mesh,
                        const VocabularyPart& vocabulary, const AroundForward& around,
                        GradientReduction& reduction);

/// Forward of all micro-batches through the stages, without autograd and without the head.
void pipelined_forward(models::CausalLM& model, std::span<const NumberedBatch> batches,
                       const distributed::Mesh& mesh, const AroundForward& around);

/// Forward alone, without autograd; the sums are the last stage's, zeros elsewhere.
LossSums pipelined_loss(models::CausalLM& model, const LabelledBatch& batch,
                        const distributed::Mesh& mesh, const VocabularyPart& vocabulary);

}  // namespace tailor::trainer
