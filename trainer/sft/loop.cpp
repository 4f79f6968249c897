#include "trainer/sft/loop.hpp"

#include <cmath>

#include "trainer/metrics/log.hpp"
#include "trainer/sft/evaluate.hpp"
#include "trainer/sft/router_balance.hpp"

namespace tailor::trainer {
namespace {

class SftLoop {
 public:
  SftLoop(TrainRun& run, const Dataset& train, const Dataset* eval)
      : run_(run),
        config_(run.config.train),
        train_(train),
        eval_(eval),
        source_(train, run.config.data, config_.seed),
        training_(run, total_steps(config_, source_.rows_in_epoch(), run.mesh.sizes.data())) {
    source_.seek(training_.state().data);
    const auto& router = run.config.router;
    if (!router.is_default()) balance_.emplace(router, run.model, run.mesh);
  }

  TrainResult operator()() {
    const auto& output = run_.config.output;
    if (training_.state().evaluation_due) evaluate_now();
    while (training_.goes_on()) {
      step();
      if (training_.due(output.eval_steps) || training_.done()) evaluate_now();
      if (training_.due(output.save_steps) || training_.done()) training_.save();
    }
    return training_.finish();
  }

 private:
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
        const auto& example = train_.examples.at(static_cast<std::size_t>(index));
        if (rank == data.rank()) share.documents.push_back(&example);
        if (rank < data.rank()) share.first_token += static_cast<std::int64_t>(example.ids.size());
      }
    }
    return share;
  }

  StepPass pass(std::int64_t number) {
    if (balance_)
      return balance_->pass(run_.model, run_.adapter, config_.seed, number, run_.vocabulary);
    if (run_.mesh.sizes.pp > 1)
      return in_stages(run_.model, run_.adapter, config_.seed, number, run_.mesh, run_.vocabulary);
    return one_by_one(
        adapted_loss(run_.model, run_.adapter, config_.seed, number, run_.vocabulary));
  }

  void step() {
    const auto begin = Clock::now();
    const auto share = draw();
    auto settings = training_.settings();
    settings.first_token = share.first_token;
    settings.expert_capacity = run_.config.router.capacity;
    const auto report = sft_step(pass(settings.step), training_.trainable(), training_.optimizer(),
                                 share.documents, training_.sync(), settings);
    training_.state().data = source_.position();
    StepMetrics metrics;
    metrics.epoch = source_.epochs();
    metrics.loss = report.loss;
    metrics.grad_norm = report.grad_norm;
    metrics.mean_token_accuracy =
        static_cast<double>(report.num_correct) / static_cast<double>(report.num_supervised);
    if (balance_) metrics.more = balance_->finish_step();
    training_.count_step(metrics, report.num_tokens, report.num_supervised, seconds_since(begin));
  }

  void evaluate_now() {
    if (eval_ == nullptr) return training_.evaluated(true);  // the job has none any more
    const auto begin = Clock::now();
    auto& reporter = training_.reporter();
    reporter.activity("evaluating");
    const auto sums = evaluate(
        run_.model, *eval_, run_.mesh, run_.vocabulary, [&](std::int64_t at, std::int64_t all) {
          reporter.activity("evaluating " + std::to_string(at) + "/" + std::to_string(all));
          return at == all || !training_.told_to_stop();
        });
    training_.evaluated(sums.has_value());
    if (!sums) return;
    training_.tell({{"eval_loss", mean_loss(*sums)}});
    reporter.report(EvalMetrics{.step = training_.state().step,
                                .eval_loss = mean_loss(*sums),
                                .eval_perplexity = perplexity(*sums),
                                .eval_mean_token_accuracy = token_accuracy(*sums),
                                .eval_num_tokens = sums->num_tokens,
                                .eval_runtime_s = seconds_since(begin)});
    if (!std::isfinite(mean_loss(*sums)))
      log_warn("step " + std::to_string(training_.state().step) +
               ": the evaluation loss is not finite");
  }

  const TrainRun& run_;
  const TrainConfig& config_;
  const Dataset& train_;
  const Dataset* eval_;
  RowSource source_;
  AdapterTraining training_;
  std::optional<RouterBalance> balance_;  // where routers are trained or experts bounded
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

TrainResult train_sft(TrainRun run, const Dataset& train, const Dataset* eval) {
  return SftLoop(run, train, eval)();
}

}  // namespace tailor::trainer
