#include "trainer/sft/loop.hpp"

#include <chrono>
#include <cmath>

#include "models/files/file_error.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/metrics/memory.hpp"
#include "trainer/metrics/reporter.hpp"
#include "trainer/sft/evaluate.hpp"
#include "trainer/sft/interrupt.hpp"
#include "trainer/sft/schedule.hpp"
#include "trainer/sft/step.hpp"
#include "trainer/sft/tripwires.hpp"

namespace tailor::trainer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Moments of a checkpoint in the order of the parameters, by name: loaded by position they would
/// follow another parameter in silence.
at::Tensor flatten(const FlatParameters& trainable, const NamedTensors& saved,
                   const std::filesystem::path& checkpoint) {
  auto flat = trainable.values().clone();
  const auto views = trainable.views(flat);
  std::map<std::string, at::Tensor> by_name(saved.begin(), saved.end());
  for (const auto& [name, view] : views) {
    const auto found = by_name.find(name);
    if (found == by_name.end() || found->second.sizes() != view.sizes())
      throw models::FileError(checkpoint.string() + ": optimizer.safetensors does not fit " + name);
    view.copy_(found->second);
  }
  if (by_name.size() != views.size())
    throw models::FileError(checkpoint.string() + ": optimizer.safetensors holds moments of " +
                            std::to_string(by_name.size()) + " parameters, the adapter has " +
                            std::to_string(views.size()));
  return flat;
}

class SftLoop {
 public:
  explicit SftLoop(SftRun& run)
      : run_(run),
        config_(run.config.train),
        output_(run.config.output),
        source_(run.train, run.config.data, config_.seed),
        trainable_(named_parameters(run.adapter)),
        optimizer_(trainable_, {.beta1 = config_.adam_beta1,
                                .beta2 = config_.adam_beta2,
                                .epsilon = config_.adam_epsilon,
                                .weight_decay = config_.weight_decay}),
        folder_(output_.dir / "checkpoints", output_.save_total_limit) {
    result_.total_steps = total_steps(config_, source_.rows_in_epoch(), run.group.size());
    rate_ = learning_rate(config_, result_.total_steps);
    state_.fingerprints = run.fingerprints;
    if (run.checkpoint) restore(*run.checkpoint);
    run.checkpoint.reset();
    saved_step_ = state_.step;
    reporter_.emplace(ReporterOptions{.dir = output_.dir,
                                      .jsonl = output_.jsonl,
                                      .tensorboard = output_.tensorboard,
                                      .total_steps = result_.total_steps,
                                      .logging_steps = output_.logging_steps,
                                      .resumed_step = state_.step});
  }

  SftResult operator()() {
    while (!done() && !interrupted()) {
      step();
      if (due(output_.eval_steps) || done()) evaluate_now();
      if (due(output_.save_steps) || done()) save();
    }
    save();  // interrupted
    reporter_->finish();
    result_.steps = state_.step;
    result_.interrupted = !done();
    result_.losses = reporter_->losses();
    if (busy_s_ > 0.0) result_.tokens_per_second = static_cast<double>(tokens_here_) / busy_s_;
    return result_;
  }

 private:
  bool done() const { return state_.step >= result_.total_steps; }
  bool due(std::int64_t interval) const { return interval > 0 && state_.step % interval == 0; }

  void restore(const Checkpoint& checkpoint) {
    const auto fingerprints = state_.fingerprints;
    state_ = checkpoint.state;
    state_.fingerprints = fingerprints;
    source_.seek(state_.data);
    optimizer_.restore(state_.num_updates,
                       flatten(trainable_, state_.first_moment, checkpoint.path),
                       flatten(trainable_, state_.second_moment, checkpoint.path));
    state_.first_moment = state_.second_moment = {};
  }

  /// This rank's documents of the next step. Every rank draws all rows, so that the order of the
  /// data does not depend on their number.
  std::vector<const Example*> draw() {
    std::vector<const Example*> documents;
    const auto rows = config_.per_device_train_batch_size * config_.gradient_accumulation_steps;
    for (std::int64_t i = 0; i < rows * run_.group.size(); ++i) {
      const auto row = source_.next();
      if (i % run_.group.size() != run_.group.rank()) continue;
      for (const auto index : row)
        documents.push_back(&run_.train.examples.at(static_cast<std::size_t>(index)));
    }
    return documents;
  }

  void step() {
    const auto begin = Clock::now();
    const auto rate = rate_.at(state_.step);
    const auto number = state_.step + 1;
    const auto report = sft_step(adapted_loss(run_.model, run_.adapter, config_.seed, number),
                                 trainable_, optimizer_, draw(), run_.group,
                                 {.step = number,
                                  .learning_rate = rate,
                                  .max_grad_norm = config_.max_grad_norm,
                                  .micro_batch_tokens = micro_batch_tokens(run_.model.arithmetic()),
                                  .row_multiple = row_multiple(run_.model.arithmetic())});
    check_divergence(number, report.loss, config_, state_.guards);
    check_lora_B(number, rate, trainable_, optimizer_, state_.guards);
    const double elapsed_s = seconds_since(begin);

    state_.step = number;
    state_.data = source_.position();
    state_.num_tokens += report.num_tokens;
    result_.loss = report.loss;
    busy_s_ += elapsed_s;
    tokens_here_ += report.num_tokens;
    tell(report, rate, elapsed_s);
  }

  void tell(const StepReport& report, double rate, double elapsed_s) {
    const auto supervised = static_cast<double>(report.num_supervised);
    reporter_->report(
        StepMetrics{.step = state_.step,
                    .epoch = source_.epochs(),
                    .loss = report.loss,
                    .learning_rate = rate,
                    .grad_norm = report.grad_norm,
                    .mean_token_accuracy = static_cast<double>(report.num_correct) / supervised,
                    .num_tokens = state_.num_tokens,
                    .tokens_per_second = static_cast<double>(report.num_tokens) / elapsed_s,
                    .supervised_tokens_per_second = supervised / elapsed_s,
                    .step_time_s = elapsed_s,
                    .rss_bytes = rss_bytes()});
  }

  void evaluate_now() {
    if (run_.eval == nullptr) return;
    const auto begin = Clock::now();
    reporter_->activity("evaluating");
    const auto sums = evaluate(run_.model, *run_.eval, [&](std::int64_t at, std::int64_t all) {
      reporter_->activity("evaluating " + std::to_string(at) + "/" + std::to_string(all));
    });
    result_.eval = sums;
    reporter_->report(EvalMetrics{.step = state_.step,
                                  .eval_loss = mean_loss(sums),
                                  .eval_perplexity = perplexity(sums),
                                  .eval_mean_token_accuracy = token_accuracy(sums),
                                  .eval_num_tokens = sums.num_tokens,
                                  .eval_runtime_s = seconds_since(begin)});
    if (!std::isfinite(mean_loss(sums)))
      log_warn("step " + std::to_string(state_.step) + ": the evaluation loss is not finite");
  }

  void save() {
    if (saved_step_ == state_.step) return;
    reporter_->activity("saving");
    state_.num_updates = optimizer_.num_updates();
    state_.first_moment = trainable_.views(optimizer_.first_moment());
    state_.second_moment = trainable_.views(optimizer_.second_moment());
    if (run_.group.rank() == 0) folder_.save(state_, run_.adapter, run_.base_model);
    saved_step_ = state_.step;
    reporter_->activity("");
  }

  const SftRun& run_;
  const TrainConfig& config_;
  const OutputConfig& output_;
  RowSource source_;
  FlatParameters trainable_;
  AdamW optimizer_;
  CheckpointFolder folder_;
  LearningRate rate_;
  TrainState state_;
  std::optional<Reporter> reporter_;
  SftResult result_;
  std::int64_t saved_step_ = 0;
  double busy_s_ = 0.0;
  std::int64_t tokens_here_ = 0;
};

}  // namespace

std::int64_t total_steps(const TrainConfig& config, std::int64_t rows_in_epoch, int num_ranks) {
  if (config.max_steps) return *config.max_steps;
  const auto rows_in_step =
      config.per_device_train_batch_size * config.gradient_accumulation_steps * num_ranks;
  const double rows = config.num_train_epochs * static_cast<double>(rows_in_epoch);
  const auto steps = static_cast<std::int64_t>(std::ceil(rows / static_cast<double>(rows_in_step)));
  return std::max<std::int64_t>(steps, 1);
}

SftResult train_sft(SftRun run) { return SftLoop(run)(); }

}  // namespace tailor::trainer
