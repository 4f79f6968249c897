#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "distributed/mesh.hpp"
#include "models/families/causal_lm.hpp"
#include "peft/lora.hpp"
#include "trainer/checkpoint/checkpoint.hpp"
#include "trainer/data/dataset.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// What a run trains with. Everything outlives the run; the adapter is seated and holds the factors
/// to begin with, those of `checkpoint` where there is one.
struct SftRun {
  const RunConfig& config;
  models::CausalLM& model;
  peft::LoraAdapter& adapter;
  const Dataset& train;
  const Dataset* eval = nullptr;  // none: no evaluation
  std::string base_model;         // for adapter_config.json
  std::map<std::string, std::string> fingerprints;
  std::optional<Checkpoint> checkpoint;  // to go on from; its memory is given back once it is read
  distributed::Group& world;             // all ranks of the job
  const distributed::Mesh& mesh;
  VocabularyPart vocabulary;
};

struct SftResult {
  std::int64_t steps = 0;          // done, those before a resumption included
  std::int64_t total_steps = 0;    // of the whole run
  std::optional<double> loss;      // of the last step made here
  std::optional<LossSums> eval;    // the last evaluation made here
  double tokens_per_second = 0.0;  // of the steps made here, evaluation and saving left out
  bool interrupted = false;        // saved, and not at the end
  std::vector<double> losses;      // of the logged steps
};

/// Steps of the whole run: max_steps, or so many as num_train_epochs take.
std::int64_t total_steps(const TrainConfig& config, std::int64_t rows_in_epoch, int num_ranks);

/// Trains until the last step or a signal to any rank (see InterruptGuard): step, report, evaluate
/// and save, by the intervals of the configuration and at the end. Rank 0 of the world reports and
/// writes, whole adapters and moments whatever the layout. A step is saved behind everything that
/// is reported of it. Writes the final adapter nowhere but into its checkpoint. Throws
/// NumericError.
SftResult train_sft(SftRun run);

}  // namespace tailor::trainer
