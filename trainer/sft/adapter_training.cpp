#include "trainer/sft/adapter_training.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "trainer/metrics/memory.hpp"
#include "trainer/parallel/agree.hpp"
#include "trainer/parallel/placement.hpp"
#include "trainer/sft/interrupt.hpp"
#include "trainer/sft/micro_batch.hpp"
#include "trainer/sft/tripwires.hpp"

namespace tailor::trainer {
namespace {

FlatParameters::Named named(const std::vector<peft::Trainable>& trainables) {
  FlatParameters::Named out;
  for (const auto& trainable : trainables) out.emplace_back(trainable.name, trainable.value);
  return out;
}

std::vector<at::Tensor> values(const FlatParameters::Named& named) {
  std::vector<at::Tensor> out;
  for (const auto& [name, value] : named) out.push_back(value);
  return out;
}

AdamWConfig adamw(const TrainConfig& config) {
  return {.beta1 = config.adam_beta1,
          .beta2 = config.adam_beta2,
          .epsilon = config.adam_epsilon,
          .weight_decay = config.weight_decay};
}

}  // namespace

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

AdapterTraining::AdapterTraining(TrainRun& run, std::int64_t total_steps, std::string curve_name)
    : run_(run),
      trainables_(ordered_trainables(run.adapter)),
      trainable_(named(trainables_)),
      sync_(run.mesh, trainables_),
      optimizer_(trainable_, adamw(run.config.train)),
      leads_(run.world.rank() == 0) {
  const auto& output = run.config.output;
  if (leads_) folder_.emplace(output.dir / "checkpoints", output.save_total_limit);
  result_.total_steps = total_steps;
  result_.curve_name = std::move(curve_name);
  rate_ = learning_rate(run.config.train, total_steps);
  state_.fingerprints = run.fingerprints;
  if (run.checkpoint) restore(*run.checkpoint);
  run.checkpoint.reset();
  saved_step_ = state_.step;
  reporter_.emplace(ReporterOptions{.dir = output.dir,
                                    .jsonl = leads_ && output.jsonl,
                                    .tensorboard = leads_ && output.tensorboard,
                                    .silent = !leads_,
                                    .curve = result_.curve_name,
                                    .total_steps = total_steps,
                                    .logging_steps = output.logging_steps,
                                    .resumed_step = state_.step,
                                    .resumed_evaluation_due = state_.evaluation_due});
}

void AdapterTraining::restore(const Checkpoint& checkpoint) {
  const auto fingerprints = state_.fingerprints;
  state_ = checkpoint.state;
  state_.fingerprints = fingerprints;
  const auto file = (checkpoint.path / "optimizer.safetensors").string();
  // By name: loaded by position they would follow another parameter in silence.
  const auto flat = [&](const NamedTensors& saved) {
    auto moments = trainable_.values().clone();
    scatter_whole(saved, trainables_, values(trainable_.views(moments)), file);
    return moments;
  };
  optimizer_.restore(state_.num_updates, flat(state_.first_moment), flat(state_.second_moment));
  state_.first_moment = state_.second_moment = {};
}

bool AdapterTraining::told_to_stop() const { return any_rank(interrupted(), run_.world); }

StepSettings AdapterTraining::settings() const {
  return {.step = state_.step + 1,
          .learning_rate = rate_.at(state_.step),
          .max_grad_norm = run_.config.train.max_grad_norm,
          .micro_batch_tokens = micro_batch_tokens(run_.model.arithmetic(), run_.model.device()),
          // Batches are filled up so that the ranks of tp can divide their tokens among them.
          .row_multiple = std::lcm(row_multiple(run_.model.arithmetic()),
                                   static_cast<std::int64_t>(run_.mesh.sizes.tp))};
}

void AdapterTraining::count_step(StepMetrics metrics, std::int64_t num_tokens,
                                 std::int64_t num_supervised, double elapsed_s, bool can_learn) {
  const auto number = state_.step + 1;
  const auto rate = rate_.at(state_.step);
  check_divergence(number, metrics.loss, run_.config.train, state_.guards);
  if (can_learn) check_lora_B(number, rate, trainable_, optimizer_, state_.guards);
  state_.step = number;
  state_.num_tokens += num_tokens;
  result_.loss = metrics.loss;
  busy_s_ += elapsed_s;
  tokens_here_ += num_tokens;

  metrics.step = number;
  metrics.learning_rate = rate;
  metrics.num_tokens = state_.num_tokens;
  metrics.tokens_per_second = static_cast<double>(num_tokens) / elapsed_s;
  metrics.supervised_tokens_per_second = static_cast<double>(num_supervised) / elapsed_s;
  metrics.step_time_s = elapsed_s;
  metrics.rss_bytes = rss_bytes();
  reporter_->report(metrics);
}

void AdapterTraining::tell(const std::vector<Metric>& facts) {
  for (const auto& fact : facts) {
    const auto known = std::ranges::find(result_.last, fact.name, &Metric::name);
    if (known == result_.last.end())
      result_.last.push_back(fact);
    else
      *known = fact;
  }
}

void AdapterTraining::evaluated(bool whole) {
  if (state_.evaluation_due == !whole) return;
  state_.evaluation_due = !whole;
  saved_step_.reset();
}

void AdapterTraining::save() {
  if (saved_step_ == state_.step) return;
  reporter_->activity("saving");
  state_.num_updates = optimizer_.num_updates();
  const auto gathered = [&](const at::Tensor& moments) {
    return gather_whole(trainables_, values(trainable_.views(moments)), run_.world, run_.mesh);
  };
  state_.first_moment = gathered(optimizer_.first_moment());
  state_.second_moment = gathered(optimizer_.second_moment());
  const auto adapter = gather_adapter(run_.adapter, run_.base_model, run_.world, run_.mesh);
  if (folder_) folder_->save(state_, adapter);
  state_.first_moment = state_.second_moment = {};
  saved_step_ = state_.step;
  reporter_->activity("");
}

TrainResult AdapterTraining::finish() {
  save();  // interrupted
  reporter_->finish();
  result_.steps = state_.step;
  result_.interrupted = !done() || state_.evaluation_due;
  result_.curve = reporter_->curve();
  if (busy_s_ > 0.0) result_.tokens_per_second = static_cast<double>(tokens_here_) / busy_s_;
  return result_;
}

}  // namespace tailor::trainer
