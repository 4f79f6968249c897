#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/families/routers.hpp"
#include "trainer/metrics/metrics.hpp"
#include "trainer/run_config.hpp"
#include "trainer/sft/step.hpp"

namespace tailor::trainer {

/// The routers of a sparse model in SFT: trained, and their experts kept equally busy, or frozen
/// and watched where experts have a capacity (models::ExpertCapacity). What a step minimises is the
/// mean cross-entropy of its supervised tokens, and beside it, each the mean over the model's L
/// sparse layers of a loss of router_losses.hpp,
///
///   router_aux_loss_coef      load_balancing_loss: E sum_e f_e P_e
///   router_seq_aux_loss_coef  sequence_balancing_loss: the same in every document, their mean
///   router_z_loss_coef        z_loss: mean_t logsumexp(z_t)^2
///
/// over all tokens of the step's documents, those that are not supervised too and what fills up a
/// batch not, of all micro-batches and ranks: a token, and in the second a document, weighs the
/// same wherever it is computed. So do the shares f of the first under BalanceScope::GlobalBatch
/// (Qiu et al. 2025, arXiv:2501.11873): they are counted over the whole step before the first
/// backward, which costs one more forward of every micro-batch but the last (in a pipeline of every
/// one). Under MicroBatch they are those of the micro-batch and rank alone, as in transformers:
/// cheaper, and then the loss depends on how a step is cut. Counts carry no gradient.
///
/// Behind the update router_bias_update_rate moves the correction biases by the counts of the whole
/// step, where the family has them; they are no parameters of the optimizer.
///
/// Ranks of tp see the same tokens and add up gradients: each has 1 / tp of these losses.
class RouterBalance {
 public:
  /// `model`, whose adapter is seated, and `mesh` outlive this. Collective over mesh.pp.
  RouterBalance(const RouterTraining& config, models::CausalLM& model,
                const distributed::Mesh& mesh);

  /// Forward and backward of a step, alone or as a stage of a pipeline; outlived by everything
  /// given. Collective over mesh.data and mesh.pp.
  StepPass pass(models::CausalLM& model, peft::LoraAdapter& adapter, std::uint64_t seed,
                std::int64_t step, const VocabularyPart& vocabulary);

  /// Once, behind the update of a step: moves the biases and answers, without coefficients and of
  /// the whole step, `aux_loss` (1 at balance), `z_loss`, `seq_aux_loss` where it is trained,
  /// `router/max_load`, the tokens of the busiest expert of any layer over the mean of its layer,
  /// and where experts have a capacity `router/dropped`, the share of chosen (token, expert) pairs
  /// that were above it. What routers choose counts in all others, dropped or not. Collective over
  /// mesh.data and mesh.pp.
  std::vector<Metric> finish_step();

 private:
  /// Of one router; of this rank until it is shared.
  struct Layer {
    at::Tensor counts_E;  // slots, float64
    at::Tensor shares_E;  // sums of expert_shares(), float64
  };

  /// What a pass computes with.
  struct Work {
    models::CausalLM& model;
    peft::LoraAdapter& adapter;
    std::uint64_t seed;
    std::int64_t step;
    VocabularyPart vocabulary;
  };
  using Forward = std::function<at::Tensor(const models::Batch&)>;

  /// A forward that records what routers say, with the micro-batch's dropout masks.
  static at::Tensor traced(const Work& work, const NumberedBatch& item, models::RoutingTrace& trace,
                           const Forward& forward);
  LossSums pass_alone(const Work& work, std::span<const NumberedBatch> batches,
                      const at::Tensor& share, GradientReduction& reduction);
  LossSums pass_in_stages(const Work& work, std::span<const NumberedBatch> batches,
                          const at::Tensor& share, GradientReduction& reduction);
  bool counts_first() const;
  void begin(std::span<const NumberedBatch> batches);
  void count(const models::RoutingTrace& trace, const LabelledBatch& batch);
  void share_counts();
  /// The losses of a micro-batch with their weights within the step; undefined without tokens.
  at::Tensor loss(const models::RoutingTrace& trace, const LabelledBatch& batch);

  const RouterTraining config_;
  const distributed::Mesh& mesh_;
  const std::vector<models::NamedRouter> routers_;  // held here
  double num_layers_ = 0.0;                         // sparse ones of the whole model
  double num_tokens_ = 0.0, num_documents_ = 0.0;   // of the step, all ranks
  std::vector<Layer> layers_;                       // as routers_
  double num_pairs_ = 0.0, num_dropped_ = 0.0;      // (token, expert), of this rank
  double seq_aux_ = 0.0, z_ = 0.0;                  // of this rank
};

}  // namespace tailor::trainer
