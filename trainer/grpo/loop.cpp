#include "trainer/grpo/loop.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "configs/reader.hpp"
#include "trainer/grpo/batch_maker.hpp"
#include "trainer/grpo/evaluate.hpp"
#include "trainer/grpo/facts.hpp"
#include "trainer/grpo/tripwires.hpp"
#include "trainer/grpo/update.hpp"
#include "trainer/metrics/jsonl_log.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/sft/numeric_error.hpp"
#include "trainer/sft/tripwires.hpp"

namespace tailor::trainer {
namespace {

std::int64_t steps_per_generation(const RunConfig& config) {
  return config.grpo.steps_per_generation.value_or(config.train.gradient_accumulation_steps);
}

/// Off where the sampler is the trainer: this program, the same weights and numbers.
Correction resolved(Correction correction) {
  return correction == Correction::Auto ? Correction::Off : correction;
}

std::unique_ptr<models::ForwardRecord> record_of(const TrainRun& run) {
  const auto bytes = reused_forward_bytes(run.config, run.model.device());
  return bytes > 0 ? std::make_unique<models::ForwardRecord>(run.model, bytes) : nullptr;
}

void warn_of_shaping(const GrpoConfig& grpo) {
  std::string keys;
  for (const auto& key : grpo.shaping_keys()) keys += (keys.empty() ? "grpo." : ", ") + key;
  if (!keys.empty())
    log_warn(keys +
             ": completions are drawn from a distribution that is cut or bent, and trained as if "
             "from the whole one, softmax(logits / temperature): as in TRL without vLLM, no weight "
             "corrects for the difference; mismatch/... compares sampler and trainer under the "
             "whole one");
}

class GrpoLoop {
 public:
  GrpoLoop(TrainRun& run, const GrpoTask& task)
      : run_(run),
        config_(run.config),
        task_(task),
        policy_{.model = run.model,
                .adapter = run.adapter,
                .config = config_.grpo,
                .rows = task.train,
                .mesh = run.mesh,
                .vocabulary = run.vocabulary},
        plan_(batch_plan(config_, run.mesh.sizes.data())),
        scorer_(task.rewards),
        record_(record_of(run)),
        mismatch_limit_(mismatch_limit(config_.grpo, run.model.arithmetic())),
        maker_(policy_, task, config_, plan_, scorer_, record_.get()),
        source_(static_cast<std::int64_t>(task.train.size()), config_.data.shuffle,
                config_.train.seed),
        from_(run.checkpoint ? run.checkpoint->path.string() : ""),
        training_(run,
                  grpo_total_steps(config_, static_cast<std::int64_t>(task.train.size()),
                                   run.mesh.sizes.data()),
                  /*curve_name=*/"reward") {
    if (training_.leads()) warn_of_shaping(config_.grpo);
    auto& state = training_.state();
    source_.seek(state.data);
    batch_.num_updates = 0;  // used up
    restore_rollouts();
    if (training_.leads() && config_.grpo.log_completions)
      completions_.emplace(config_.output.dir / "completions.jsonl", state.step);
  }

  TrainResult operator()() {
    const auto& output = config_.output;
    if (training_.state().evaluation_due) evaluate_now();
    while (training_.goes_on()) {
      step();
      check_rewards();  // before the end is saved, or a second start would find a finished run
      if (training_.due(output.eval_steps) || training_.done()) evaluate_now();
      if (training_.due(output.save_steps) || training_.done()) save();
    }
    save();
    return training_.finish();
  }

 private:
  /// One optimizer step, with the rollouts it needs.
  void step() {
    const auto begin = Clock::now();
    const auto settings = training_.settings();
    facts_.clear();
    prepare(settings);
    const WatchedUpdate watched{
        .step = settings.step,
        .is_first = batch_.updates_done == 0,
        .has_moved = settings.step - 1 > batch_.sampled_at,
        .was_base = settings.step == 1 && config_.adapter_path.empty() &&
                    !any_lora_B_nonzero(training_.trainable(), training_.trainable().values())};
    const auto update_begin = Clock::now();
    const auto report = update(settings);
    if (record_) record_->clear();  // the weights have changed
    const double update_s = seconds_since(update_begin);
    facts_.push_back({"update_time_s", update_s});
    facts_.push_back(
        {"update_tokens_per_second", static_cast<double>(report.num_tokens) / update_s});
    const auto why = why_stop(report, watched);
    if (report.num_loss_tokens == 0)
      log_warn("step " + std::to_string(settings.step) +
               ": every completion was left out, cut at the limit "
               "(grpo.mask_truncated_completions) or rejected "
               "(grpo.importance_sampling_reject): the step had no gradient");
    batch_.updates_done += 1;
    if (batch_.used_up()) batch_.rollouts.clear();
    training_.state().data = source_.position();
    StepMetrics metrics;
    metrics.epoch = source_.epochs(ahead_ ? ahead_->batch.num_groups : 0);
    metrics.loss = report.loss;
    metrics.grad_norm = report.grad_norm;
    metrics.more = facts_;
    const auto of_update = update_facts(report, config_.grpo);
    metrics.more.insert(metrics.more.end(), of_update.begin(), of_update.end());
    if (const auto reward = find_number(facts_, "reward")) {
      training_.tell({{"reward", *reward}});
      // What is told of a batch stands with its first step, which the interval may never meet.
      metrics.logged = settings.step % config_.output.logging_steps < plan_.num_updates;
    }
    metrics.logged = metrics.logged || why;  // what stopped the job can be seen
    training_.count_step(std::move(metrics), report.num_tokens, report.num_loss_tokens,
                         seconds_since(begin), batch_.has_spread);
    if (why) throw NumericError(*why);
  }

  /// A batch with updates to make; and the next one, sampled where it is time. That comes before
  /// anything is waited for: rewards think while the model samples.
  void prepare(const StepSettings& settings) {
    std::optional<PendingBatch> current;
    if (batch_.used_up())
      current = ahead_ ? std::exchange(ahead_, std::nullopt) : draw_batch(settings);
    const auto left = current ? plan_.num_updates : batch_.num_updates - batch_.updates_done;
    if (!ahead_ && left <= config_.grpo.max_staleness && training_.steps_left() > left)
      ahead_ = draw_batch(settings);
    if (current) take(std::move(*current), settings);
  }

  PendingBatch draw_batch(const StepSettings& settings) {
    training_.reporter().activity("sampling");
    auto drawn = maker_.draw(source_, training_.state().num_rollouts, settings);
    training_.reporter().activity("");
    return drawn;
  }

  /// The batch that the next updates are made from, once it is scored.
  void take(PendingBatch drawn, const StepSettings& settings) {
    training_.reporter().activity("scoring");
    auto made = maker_.finish(std::move(drawn), source_, training_.state().num_rollouts, settings);
    batch_ = std::move(made.batch);
    facts_ = std::move(made.facts);
    write_completions(made.records, settings.step);
    if (!made.rewards_failed) ++training_.state().guards.batches_rewarded;
    training_.reporter().activity("");
  }

  UpdateReport update(const StepSettings& settings) {
    const auto [first, last] =
        groups_of_update(batch_, batch_.updates_done, config_.grpo.num_iterations);
    const auto begin = std::ranges::lower_bound(batch_.rollouts, first, {}, &Rollout::group);
    const auto end = std::ranges::lower_bound(batch_.rollouts, last, {}, &Rollout::group);
    return grpo_update(policy_, training_.trainable(), training_.optimizer(), {begin, end},
                       training_.sync(), settings,
                       resolved(config_.grpo.importance_sampling_correction), record_.get());
  }

  /// Failing rewards cost samples and not the job, but a run that learnt from none is no success.
  void check_rewards() const {
    if (training_.state().guards.batches_rewarded == 0 && training_.done())
      throw NumericError(
          "the rewards failed at every batch and scored no completion at all: the adapter has "
          "learnt nothing; the warnings before this say why");
  }

  /// What the tripwires say of an update.
  std::optional<std::string> why_stop(const UpdateReport& report, const WatchedUpdate& update) {
    const auto& grpo = config_.grpo;
    auto& counts = training_.state().guards;
    std::optional<std::string> flat;
    if (update.is_first) flat = why_flat(batch_.has_spread, grpo, update.step, counts);
    const auto far = why_far(report, grpo, update, counts);
    if (auto apart = why_apart(report, grpo, mismatch_limit_, update)) return apart;
    return far ? far : flat;
  }

  void write_completions(const std::vector<std::string>& own, std::int64_t step) {
    if (!config_.grpo.log_completions) return;
    const auto lines = all_lines(own, *run_.mesh.data);
    if (!completions_) return;
    for (const auto& line : lines)
      completions_->write_line("{\"step\": " + std::to_string(step) + ", " + line.substr(1));
  }

  void evaluate_now() {
    if (task_.eval.empty()) return training_.evaluated(true);  // the job has none any more
    const auto begin = Clock::now();
    auto& reporter = training_.reporter();
    const auto found = evaluate_prompts(
        policy_, task_, config_.train.seed, scorer_, [&](std::int64_t at, std::int64_t all) {
          reporter.activity("evaluating " + std::to_string(at) + "/" + std::to_string(all));
          return !training_.told_to_stop();
        });
    training_.evaluated(found.has_value());
    if (!found) return;
    std::vector<Metric> out{{"step", training_.state().step}};
    out.insert(out.end(), found->facts.begin(), found->facts.end());
    out.push_back({"eval_runtime_s", seconds_since(begin)});
    char line[128];
    std::snprintf(line, sizeof line, "step %lld: eval reward %.4f (%zu prompts in %.1f s)",
                  static_cast<long long>(training_.state().step), found->reward, task_.eval.size(),
                  seconds_since(begin));
    reporter.report(out, line);
    training_.tell({{"eval_reward", found->reward}});
  }

  /// What is left of a batch, and the next one where it was drawn already.
  void restore_rollouts() {
    auto saved = std::exchange(training_.state().rollouts, {});
    NamedTensors next;
    std::erase_if(saved, [&](const auto& tensor) {
      const bool of_next = tensor.first.starts_with(kNext);
      if (of_next) next.emplace_back(tensor.first.substr(kNext.size()), tensor.second);
      return of_next;
    });
    if (!saved.empty()) batch_ = restored(saved);
    if (!next.empty()) ahead_ = maker_.resume(restored(next));
  }

  RolloutBatch restored(const NamedTensors& saved) const {
    const auto file = from_ + "/rollouts.safetensors";
    auto batch =
        scatter_rollouts(saved, config_.grpo.num_iterations,
                         static_cast<std::int64_t>(task_.train.size()), *run_.mesh.data, file);
    if (batch.num_updates != plan_.num_updates)
      throw configs::ConfigError(file + ": its batch is one of " +
                                 std::to_string(batch.num_updates) + " updates, the job's of " +
                                 std::to_string(plan_.num_updates) +
                                 "; use the old settings, or another output.dir for a new run");
    return batch;
  }

  /// With what is left of the batch, and the next one, unscored: its rewards are asked again.
  void save() {
    auto& saved = training_.state().rollouts;
    if (!batch_.used_up()) saved = gather_rollouts(batch_, *run_.mesh.data);
    if (ahead_)
      for (auto& [name, tensor] : gather_rollouts(ahead_->batch, *run_.mesh.data))
        saved.emplace_back(std::string(kNext) + name, std::move(tensor));
    training_.save();
    saved = {};
  }

  static constexpr std::string_view kNext =
      "next.";  // before the names of the next batch's tensors

  const TrainRun& run_;
  const RunConfig& config_;
  const GrpoTask& task_;
  Policy policy_;
  BatchPlan plan_;
  Scorer scorer_;
  std::unique_ptr<models::ForwardRecord> record_;  // or none; empty between steps
  double mismatch_limit_;
  BatchMaker maker_;
  PromptSource source_;
  std::string from_;  // the checkpoint to go on from
  AdapterTraining training_;
  RolloutBatch batch_;
  std::optional<PendingBatch> ahead_;  // the next one, where it is sampled already
  std::vector<Metric> facts_;          // of the batch that the step began with
  std::optional<JsonlLog> completions_;
};

}  // namespace

std::int64_t reused_forward_bytes(const RunConfig& config, at::Device device) {
  const auto& parallel = config.parallel;
  const bool same = config.grpo.max_staleness == 0 && config.router.capacity.factor == 0.0;
  const bool alone = parallel.tensor_parallel_size == 1 && parallel.expert_parallel_size == 1 &&
                     parallel.pipeline_parallel_size == 1 && parallel.dp_shard_size == 1;
  return same && alone && device.is_cpu() ? config.grpo.reuse_forward_mb << 20 : 0;
}

BatchPlan batch_plan(const RunConfig& config, std::int64_t data_ranks) {
  const auto completions =
      config.train.per_device_train_batch_size * data_ranks * steps_per_generation(config);
  const auto generations = config.grpo.num_generations;
  const auto in_pass = steps_per_generation(config) / config.train.gradient_accumulation_steps;
  const auto place = config.grpo_place.empty() ? "grpo" : config.grpo_place;
  if (completions % generations != 0)
    throw configs::ConfigError(
        place + ".num_generations: expected a divisor of the completions of a batch, " +
        std::to_string(completions) +
        " (train.per_device_train_batch_size x ranks x steps_per_generation, which is "
        "train.gradient_accumulation_steps where it is not given), found " +
        std::to_string(generations));
  const auto groups = completions / generations;
  if (groups < in_pass)
    throw configs::ConfigError(place + ".steps_per_generation: expected a group for each of the " +
                               std::to_string(in_pass) + " optimizer steps of a batch, found " +
                               std::to_string(groups) + (groups == 1 ? " group" : " groups"));
  return {.num_groups = groups,
          .updates_in_pass = in_pass,
          .num_updates = in_pass * config.grpo.num_iterations};
}

std::int64_t grpo_total_steps(const RunConfig& config, std::int64_t num_rows,
                              std::int64_t data_ranks) {
  if (config.train.max_steps) return *config.train.max_steps;
  const auto plan = batch_plan(config, data_ranks);
  const double batches = std::ceil(config.train.num_train_epochs * static_cast<double>(num_rows) /
                                   static_cast<double>(plan.num_groups));
  return std::max<std::int64_t>(static_cast<std::int64_t>(batches), 1) * plan.num_updates;
}

TrainResult train_grpo(TrainRun run, const GrpoTask& task) { return GrpoLoop(run, task)(); }

}  // namespace tailor::trainer
