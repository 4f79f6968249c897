#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "distributed/mesh.hpp"
#include "models/families/causal_lm.hpp"
#include "peft/lora.hpp"
#include "trainer/checkpoint/checkpoint.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/metrics/reporter.hpp"
#include "trainer/parallel/gradient_sync.hpp"
#include "trainer/run_config.hpp"
#include "trainer/sft/optimizer.hpp"
#include "trainer/sft/schedule.hpp"
#include "trainer/sft/step.hpp"

namespace tailor::trainer {

/// What a run trains with, whatever the task. Everything outlives the run; the adapter is seated
/// and holds the factors to begin with, those of `checkpoint` where there is one.
struct TrainRun {
  const RunConfig& config;
  models::CausalLM& model;
  peft::LoraAdapter& adapter;
  std::string base_model;  // for adapter_config.json
  std::map<std::string, std::string> fingerprints;
  std::optional<Checkpoint> checkpoint;  // to go on from; its memory is given back once it is read
  distributed::Group& world;             // all ranks of the job
  const distributed::Mesh& mesh;
  VocabularyPart vocabulary;
};

struct TrainResult {
  std::int64_t steps = 0;          // done, those before a resumption included
  std::int64_t total_steps = 0;    // of the whole run
  std::optional<double> loss;      // of the last step made here
  std::vector<Metric> last;        // what the task told of the last step and evaluation made here
  double tokens_per_second = 0.0;  // of the steps made here, evaluation and saving left out
  bool interrupted = false;        // saved, and something is left to do
  std::vector<double> curve;       // of the logged steps, what `curve_name` is
  std::string curve_name;          // "loss", "reward"
};

/// The part of a training run that does not depend on where gradients come from: flat parameters,
/// optimizer and schedule, the state that a restart needs, checkpoints and reports. Rank 0 of the
/// world reports and writes, whole adapters and moments whatever the layout. A step is saved behind
/// everything that is reported of it.
class AdapterTraining {
 public:
  /// `run` outlives this. Restores its checkpoint, where there is one, into state() and the
  /// optimizer. `curve_name`: the metric that tells best how the run went, for TrainResult.
  AdapterTraining(TrainRun& run, std::int64_t total_steps, std::string curve_name = "loss");

  FlatParameters& trainable() { return trainable_; }
  AdamW& optimizer() { return optimizer_; }
  const GradientSync& sync() const { return sync_; }
  TrainState& state() { return state_; }
  const TrainState& state() const { return state_; }
  Reporter& reporter() { return *reporter_; }
  bool leads() const { return leads_; }  // reports and writes

  bool done() const { return steps_left() <= 0; }
  std::int64_t steps_left() const { return result_.total_steps - state_.step; }
  bool due(std::int64_t interval) const { return interval > 0 && state_.step % interval == 0; }
  bool told_to_stop() const;                                   // by a signal, any rank; collective
  bool goes_on() const { return !done() && !told_to_stop(); }  // likewise

  /// The settings of the next step.
  StepSettings settings() const;
  /// Behind a step's update: the guards, the counts, and what is reported of it. `metrics` needs
  /// loss, grad_norm and what is the task's own. `can_learn`: the step had something that moves the
  /// adapter, for the guard that it does. Throws NumericError of the guards.
  void count_step(StepMetrics metrics, std::int64_t num_tokens, std::int64_t num_supervised,
                  double elapsed_s, bool can_learn = true);
  void tell(const std::vector<Metric>& facts);  // for the result, the newest of a name
  /// The evaluation behind this step was made, or broken off: then the run that goes on makes it.
  void evaluated(bool whole);
  /// Writes a checkpoint unless what this step has left is saved. Collective.
  void save();
  /// Saves what an interrupted run has, ends the reports.
  TrainResult finish();

 private:
  void restore(const Checkpoint& checkpoint);

  const TrainRun& run_;
  std::vector<peft::Trainable> trainables_;
  FlatParameters trainable_;
  GradientSync sync_;
  AdamW optimizer_;
  bool leads_;
  std::optional<CheckpointFolder> folder_;
  LearningRate rate_;
  TrainState state_;
  std::optional<Reporter> reporter_;
  TrainResult result_;
  std::optional<std::int64_t> saved_step_;  // needs no saving: that of a checkpoint, or the start
  double busy_s_ = 0.0;
  std::int64_t tokens_here_ = 0;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin);

}  // namespace tailor::trainer
