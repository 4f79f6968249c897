#include "trainer/sft/loop.hpp"

#include <ATen/ops/full.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "models/files/file_error.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/metrics/memory.hpp"
#include "trainer/metrics/reporter.hpp"
#include "trainer/parallel/placement.hpp"
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

bool any_rank(bool flag, distributed::Group& world) {
  auto flags = at::full({1}, flag ? 1 : 0, at::kLong);
  world.all_reduce(flags, distributed::Reduce::Max);
  return *flags.const_data_ptr<std::int64_t>() != 0;
}

class SftLoop {
 public:
  explicit SftLoop(SftRun& run)
      : run_(run),
        config_(run.config.train),
        output_(run.config.output),
        source_(run.train, run.config.data, config_.seed),
        trainables_(ordered_trainables(run.adapter)),
        trainable_(named(trainables_)),
        sync_(run.mesh, trainables_),
        optimizer_(trainable_, {.beta1 = config_.adam_beta1,
                                .beta2 = config_.adam_beta2,
                                .epsilon = config_.adam_epsilon,
                                .weight_decay = config_.weight_decay}),
        leads_(run.world.rank() == 0) {
    if (leads_) folder_.emplace(output_.dir / "checkpoints", output_.save_total_limit);
    result_.total_steps = total_steps(config_, source_.rows_in_epoch(), run.mesh.sizes.data());
    rate_ = learning_rate(config_, result_.total_steps);
    state_.fingerprints = run.fingerprints;
    if (run.checkpoint) restore(*run.checkpoint);
    run.checkpoint.reset();
    saved_step_ = state_.step;
    reporter_.emplace(ReporterOptions{.dir = output_.dir,
                                      .jsonl = leads_ && output_.jsonl,
                                      .tensorboard = leads_ && output_.tensorboard,
                                      .silent = !leads_,
                                      .total_steps = result_.total_steps,
                                      .logging_steps = output_.logging_steps,
                                      .resumed_step = state_.step});
  }

  SftResult operator()() {
    while (!done() && !any_rank(interrupted(), run_.world)) {
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

  struct Share {
    std::vector<const Example*> documents;
    std::int64_t first_token = 0;  // number of its first within the step
  };

  /// This rank's documents of the next step: consecutive rows. Every rank draws all rows, so that
  /// the order of the data does not depend on the number of ranks.
  Share draw() {
    Share share;
    const auto rows = config_.per_device_train_batch_size * config_.gradient_accumulation_steps;
    const auto& data = *run_.mesh.data;
    for (std::int64_t i = 0; i < rows * data.size(); ++i) {
      const auto rank = i / rows;
      for (const auto index : source_.next()) {
        const auto& example = run_.train.examples.at(static_cast<std::size_t>(index));
        if (rank == data.rank()) share.documents.push_back(&example);
        if (rank < data.rank()) share.first_token += static_cast<std::int64_t>(example.ids.size());
      }
    }
    return share;
  }

  void step() {
    const auto begin = Clock::now();
    const auto rate = rate_.at(state_.step);
    const auto number = state_.step + 1;
    const auto share = draw();
    const auto pass =
        run_.mesh.sizes.pp > 1
            ? in_stages(run_.model, run_.adapter, config_.seed, number, run_.mesh, run_.vocabulary)
            : one_by_one(
                  adapted_loss(run_.model, run_.adapter, config_.seed, number, run_.vocabulary));
    const auto report = sft_step(pass, trainable_, optimizer_, share.documents, sync_,
                                 {.step = number,
                                  .learning_rate = rate,
                                  .max_grad_norm = config_.max_grad_norm,
                                  .micro_batch_tokens = micro_batch_tokens(run_.model.arithmetic()),
                                  .row_multiple = filled_rows(),
                                  .first_token = share.first_token});
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

  /// Batches are filled up so that the ranks of tp can divide their tokens among them.
  std::int64_t filled_rows() const {
    return std::lcm(row_multiple(run_.model.arithmetic()),
                    static_cast<std::int64_t>(run_.mesh.sizes.tp));
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
    const auto sums = evaluate(
        run_.model, *run_.eval, run_.mesh, run_.vocabulary, [&](std::int64_t at, std::int64_t all) {
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

  const SftRun& run_;
  const TrainConfig& config_;
  const OutputConfig& output_;
  RowSource source_;
  std::vector<peft::Trainable> trainables_;
  FlatParameters trainable_;
  GradientSync sync_;
  AdamW optimizer_;
  bool leads_;  // reports and writes
  std::optional<CheckpointFolder> folder_;
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
