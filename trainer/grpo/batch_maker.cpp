#include "trainer/grpo/batch_maker.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>

#include "trainer/grpo/facts.hpp"
#include "trainer/grpo/measure.hpp"
#include "trainer/grpo/policy_loss.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

/// Every rank's values of its own samples, shared; zeros where no rank has one.
std::vector<double> shared(const std::vector<double>& own, const std::vector<std::int64_t>& places,
                           std::int64_t num_samples, distributed::Group& data) {
  auto all = at::zeros({num_samples}, at::kDouble);
  auto* at = all.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < own.size(); ++i) at[places[i]] = own[i];
  data.all_reduce(all, distributed::Reduce::Sum);
  return {at, at + num_samples};
}

}  // namespace

/// What completions.jsonl tells of a completion beside what a whole batch is needed for.
struct BatchMaker::Sample {
  Judged judged;
  std::string row;         // PromptRow::place
  std::int64_t index = 0;  // within its group
  Ending ending = Ending::Length;
  Json rewards, faults;  // of every reward what it said, of those that failed why
};

struct BatchMaker::Collected {
  struct Discarded {
    std::int64_t group;  // among the discarded ones
    std::optional<double> reward;
    Sample sample;
  };

  std::vector<Rollout> rollouts;     // of this rank
  std::vector<Sample> samples;       // one each; none where this rank records nothing
  std::vector<Discarded> discarded;  // nor then
  Judgement judgement;               // of all ranks
  std::int64_t num_groups = 0, num_rounds = 0, num_discarded = 0;
  double num_tokens = 0.0;  // sampled, of all ranks, discarded ones too
  double rollout_s = 0.0, measure_s = 0.0;
  double reward_s = 0.0;       // waited for rewards
  double reward_busy_s = 0.0;  // that they took
};

BatchMaker::BatchMaker(const Policy& policy, const GrpoTask& task, const RunConfig& config,
                       const BatchPlan& plan, Scorer& scorer, models::ForwardRecord* record)
    : policy_(policy),
      task_(task),
      config_(config),
      plan_(plan),
      scorer_(scorer),
      record_(record),
      weights_(reward_weights(task)) {}

PendingBatch BatchMaker::draw(PromptSource& source, std::int64_t& num_rollouts,
                              const StepSettings& settings) {
  auto out = sample(source, num_rollouts, plan_.num_groups, /*first_group=*/0, settings.step);
  out.batch.sampled_at = settings.step - 1;
  if (config_.grpo.dynamic_sampling) return out;  // what stays is known once it is scored
  const auto begin = Clock::now();
  measure_rollouts(policy_, out.batch.rollouts, plan_.num_updates, settings, record_);
  out.measure_s = seconds_since(begin);
  return out;
}

PendingBatch BatchMaker::resume(RolloutBatch batch) {
  PendingBatch out;
  out.batch = std::move(batch);
  ask_rewards(out);
  return out;
}

MadeBatch BatchMaker::finish(PendingBatch pending, PromptSource& source, std::int64_t& num_rollouts,
                             const StepSettings& settings) {
  const auto& grpo = config_.grpo;
  const auto sampled_at = pending.batch.sampled_at;
  Collected all;
  all.judgement.functions.resize(task_.reward_configs.size());
  collect(all, std::move(pending), settings.step);
  if (grpo.dynamic_sampling) {
    std::int64_t in_vain = 0;  // prompts in a row
    while (all.num_groups < plan_.num_groups && grpo.draws_more(all.num_rounds)) {
      const auto groups = all.num_groups, missing = plan_.num_groups - groups;
      collect(all, sample(source, num_rollouts, missing, groups, settings.step), settings.step);
      in_vain = all.num_groups > groups ? 0 : in_vain + missing;
      // A limit ends this otherwise.
      if (grpo.max_num_gen_batches == 0 && grpo.zero_spread_patience > 0 &&
          in_vain >= grpo.zero_spread_patience * plan_.num_groups)
        throw NumericError("step " + std::to_string(settings.step) +
                           ": dynamic sampling found no completions of different rewards for " +
                           std::to_string(in_vain) +
                           " prompts in a row, as many as grpo.zero_spread_patience batches have");
    }
    const auto begin = Clock::now();
    measure_rollouts(policy_, all.rollouts, plan_.num_updates, settings, record_);
    all.measure_s = seconds_since(begin);
  }
  const auto weighed = weigh(all);

  MadeBatch out;
  out.batch = {.num_groups = all.num_groups,
               .num_updates = plan_.num_updates,
               .sampled_at = sampled_at,
               .rollouts = {}};
  out.batch.has_spread =
      std::ranges::count(weigh(all.judgement.functions, weights_).group_has_spread, true) > 0;
  out.rewards_failed = all.judgement.failed && !all.judgement.scored;
  out.facts = batch_facts(task_, all.judgement, weighed);
  if (grpo.max_staleness > 0) out.facts.push_back({"staleness", settings.step - 1 - sampled_at});
  add_rejected(all, out.facts);
  add_progress(all, out.facts);
  const auto places = places_of(all.rollouts, grpo.num_generations);
  for (std::size_t i = 0; i < all.rollouts.size(); ++i)
    all.rollouts[i].advantage = weighed.values[static_cast<std::size_t>(places[i])];
  if (records()) record(all, weighed, places, out);
  out.batch.rollouts = std::move(all.rollouts);
  return out;
}

/// Groups of the batch from `first_group` on, numbered from 0, as this rank's part of them.
PendingBatch BatchMaker::sample(PromptSource& source, std::int64_t& num_rollouts,
                                std::int64_t num_groups, std::int64_t first_group,
                                std::int64_t step) {
  const auto generations = config_.grpo.num_generations;
  const auto& data = *policy_.mesh.data;
  std::vector<Planned> own;
  for (std::int64_t g = 0; g < num_groups; ++g) {
    const auto row = source.next();  // every rank draws all, so that none depends on their number
    if (owner_of(first_group + g, plan_.num_groups, plan_.updates_in_pass, data.size()) ==
        data.rank())
      own.push_back({.group = g, .row = row});
  }
  // Of one batch in 16 the trainer computes everything itself: the sampler is compared with it.
  constexpr std::int64_t kBatchesACheck = 16;
  const bool checks = (step - 1) / plan_.num_updates % kBatchesACheck == 0;
  auto* const record = checks ? nullptr : record_;
  const auto begin = Clock::now();
  PendingBatch out;
  out.batch = {.num_groups = num_groups, .num_updates = plan_.num_updates, .rollouts = {}};
  out.batch.rollouts = trainer::draw(policy_, task_.train, task_, own,
                                     {.temperature = config_.grpo.temperature,
                                      .num_generations = generations,
                                      .seed = config_.train.seed,
                                      .first_sequence = num_rollouts,
                                      .record = record});
  num_rollouts += num_groups * generations;
  out.rollout_s = seconds_since(begin);
  ask_rewards(out);
  return out;
}

void BatchMaker::ask_rewards(PendingBatch& pending) {
  pending.samples = std::make_shared<const std::vector<Judged>>(
      judged_of(task_, task_.train, pending.batch.rollouts));
  pending.scored = scorer_.start(pending.samples);
}

/// Waits for the rewards of `pending` and adds what of it is to be learnt from.
void BatchMaker::collect(Collected& all, PendingBatch pending, std::int64_t step) const {
  const auto begin = Clock::now();
  const auto scored = pending.scored.get();
  const auto judged = judge(task_, pending.batch.rollouts, scored, pending.batch.num_groups,
                            config_.grpo.num_generations, policy_.mesh);
  warn_of_faults(task_, task_.train, pending.batch.rollouts, scored, "step " + std::to_string(step),
                 config_.grpo.num_generations, *policy_.mesh.data);
  all.reward_s += seconds_since(begin);
  all.reward_busy_s += scored.busy_s;
  all.rollout_s += pending.rollout_s;
  all.measure_s += pending.measure_s;
  all.num_rounds += 1;
  all.judgement.scored = all.judgement.scored || judged.scored;
  all.judgement.failed = all.judgement.failed || judged.failed;
  all.judgement.num_faulted += judged.num_faulted;
  all.num_tokens += std::accumulate(judged.lengths.begin(), judged.lengths.end(), 0.0);
  keep(all, std::move(pending), judged, scored);
}

/// Whether this rank has lines for completions.jsonl: of those of tp, which have the same samples,
/// the first.
bool BatchMaker::records() const {
  return config_.grpo.log_completions && policy_.mesh.tp->rank() == 0;
}

std::vector<BatchMaker::Sample> BatchMaker::samples_of(const PendingBatch& drawn,
                                                       const Scored& scored) const {
  const auto generations = static_cast<std::size_t>(config_.grpo.num_generations);
  std::vector<Sample> out;
  for (std::size_t i = 0; i < drawn.batch.rollouts.size(); ++i) {
    const auto& rollout = drawn.batch.rollouts[i];
    out.push_back({.judged = (*drawn.samples)[i],
                   .row = task_.train.at(static_cast<std::size_t>(rollout.row)).place,
                   .index = static_cast<std::int64_t>(i % generations),
                   .ending = ending_of(task_, rollout),
                   .rewards = Json::object(),
                   .faults = Json::object()});
  }
  for (std::size_t f = 0; f < scored.functions.size(); ++f) {
    const auto& name = task_.reward_configs[f].name;
    const auto& [values, faults] = scored.functions[f];
    for (std::size_t i = 0; i < out.size(); ++i) out[i].rewards[name] = or_null(values.at(i));
    for (const auto& fault : faults) out.at(fault.index).faults[name] = fault.reason;
  }
  return out;
}

Advantages BatchMaker::weigh(const std::vector<RewardColumn>& functions,
                             const std::vector<double>& weights) const {
  const auto& grpo = config_.grpo;
  try {
    return advantages(functions, weights, grpo.num_generations, grpo.scale_rewards,
                      grpo.multi_objective_aggregation);
  } catch (const std::domain_error& error) {
    throw NumericError(error.what());
  }
}

/// Appends the groups that are to be learnt from, numbered on from those that are there; the others
/// are there to be told.
void BatchMaker::keep(Collected& all, PendingBatch drawn, const Judgement& judged,
                      const Scored& scored) const {
  const auto generations = config_.grpo.num_generations;
  std::vector<bool> keeps(static_cast<std::size_t>(drawn.batch.num_groups), true);
  const bool more = config_.grpo.draws_more(all.num_rounds);
  const auto weighed = weigh(judged.functions, weights_);
  if (config_.grpo.dynamic_sampling && more) keeps = weighed.group_has_spread;
  std::vector<std::int64_t> number;  // among those that are kept, or that are not
  for (std::size_t g = 0; g < keeps.size(); ++g) {
    number.push_back(keeps[g] ? all.num_groups++ : all.num_discarded++);
    if (!keeps[g]) continue;
    for (auto i = g * static_cast<std::size_t>(generations);
         i < (g + 1) * static_cast<std::size_t>(generations); ++i) {
      for (std::size_t f = 0; f < judged.functions.size(); ++f)
        all.judgement.functions[f].push_back(judged.functions[f][i]);
      all.judgement.lengths.push_back(judged.lengths[i]);
      all.judgement.endings.push_back(judged.endings[i]);
    }
  }
  auto samples = records() ? samples_of(drawn, scored) : std::vector<Sample>();
  const auto places = places_of(drawn.batch.rollouts, generations);
  for (std::size_t i = 0; i < places.size(); ++i) {
    auto& rollout = drawn.batch.rollouts[i];
    const auto group = static_cast<std::size_t>(rollout.group);
    rollout.group = number[group];
    if (keeps[group]) {
      all.rollouts.push_back(std::move(rollout));
      if (!samples.empty()) all.samples.push_back(std::move(samples[i]));
    } else if (!samples.empty()) {
      all.discarded.push_back({.group = number[group],
                               .reward = weighed.rewards[static_cast<std::size_t>(places[i])],
                               .sample = std::move(samples[i])});
    }
  }
}

/// Divergence of every sample of all ranks from the reference.
std::vector<double> BatchMaker::kl_of(const Collected& all) const {
  std::vector<double> own;
  for (const auto& rollout : all.rollouts) {
    const auto mask = at::full({rollout.size()}, rollout.counts ? 1.0 : 0.0, at::kFloat);
    own.push_back(response_kl({0, rollout.size()}, mask, at::tensor(rollout.old_logprobs),
                              at::tensor(rollout.reference_logprobs))
                      .front());
  }
  const auto generations = config_.grpo.num_generations;
  return shared(own, places_of(all.rollouts, generations), all.num_groups * generations,
                *policy_.mesh.data);
}

Advantages BatchMaker::weigh(const Collected& all) const {
  auto functions = all.judgement.functions;
  auto weights = weights_;
  if (takes_kl_off_rewards(config_.grpo)) {
    const auto divergence = kl_of(all);
    RewardColumn kl(divergence.begin(), divergence.end());
    // What no reward has scored stays unscored.
    for (std::size_t i = 0; i < kl.size(); ++i)
      if (std::ranges::none_of(functions,
                               [&](const auto& scores) { return scores[i].has_value(); }))
        kl[i].reset();
    functions.push_back(std::move(kl));
    weights.push_back(-config_.grpo.beta);
  }
  return weigh(functions, weights);
}

/// Shares of what counts that importance_sampling_reject drops.
void BatchMaker::add_rejected(const Collected& all, std::vector<Metric>& facts) const {
  if (config_.grpo.importance_sampling_reject.empty()) return;
  auto counts = at::zeros({4}, at::kDouble);  // tokens, rejected ones; the same of completions
  auto* count = counts.mutable_data_ptr<double>();
  for (const auto& rollout : all.rollouts) {
    if (!rollout.counts) continue;
    count[0] += static_cast<double>(rollout.size());
    count[1] += static_cast<double>(rollout.size() - rollout.num_loss_tokens());
    count[2] += 1.0;
    count[3] += rollout.num_loss_tokens() == 0 ? 1.0 : 0.0;
  }
  policy_.mesh.data->all_reduce(counts, distributed::Reduce::Sum);
  facts.push_back({"frac_rejected_tokens", count[1] / std::max(count[0], 1.0)});
  facts.push_back({"frac_rejected_sequences", count[3] / std::max(count[2], 1.0)});
}

/// How the batch came about, and where the time went.
void BatchMaker::add_progress(const Collected& all, std::vector<Metric>& facts) const {
  if (config_.grpo.dynamic_sampling) {
    facts.push_back({"num_gen_batches", all.num_rounds});
    facts.push_back({"num_discarded_groups", all.num_discarded});
  }
  facts.push_back(
      {"rollout_tokens_per_second", all.rollout_s > 0.0 ? all.num_tokens / all.rollout_s : 0.0});
  facts.push_back({"rollout_time_s", all.rollout_s});
  facts.push_back({"reward_time_s", all.reward_s});
  facts.push_back({"reward_busy_s", all.reward_busy_s});
  facts.push_back({"measure_time_s", all.measure_s});
}

void BatchMaker::record(const Collected& all, const Advantages& weighed,
                        const std::vector<std::int64_t>& places, MadeBatch& out) const {
  const auto add = [&](std::int64_t group, const Sample& sample,
                       const std::optional<double>& reward, double advantage, bool is_discarded) {
    Json line = {{"group", group},
                 {"index", sample.index},
                 {"row", sample.row},
                 {"prompt", Json::parse(sample.judged.prompt_json)},
                 {"completion", sample.judged.completion},
                 {"rewards", sample.rewards}};
    if (!sample.faults.empty()) line["faults"] = sample.faults;
    line["reward"] = or_null(reward);
    line["advantage"] = advantage;
    if (is_discarded) line["discarded"] = true;
    line["finish_reason"] = name_of(sample.ending);
    line["num_tokens"] = sample.judged.num_tokens;
    line["columns"] = Json::parse(sample.judged.columns_json);
    out.records.push_back(line.dump(-1, ' ', false, Json::error_handler_t::replace));
  };
  for (std::size_t i = 0; i < all.samples.size(); ++i)
    add(all.rollouts[i].group, all.samples[i], weighed.rewards[static_cast<std::size_t>(places[i])],
        all.rollouts[i].advantage,
        /*is_discarded=*/false);
  for (const auto& [group, reward, sample] : all.discarded)
    add(all.num_groups + group, sample, reward, /*advantage=*/0.0, /*is_discarded=*/true);
}

}  // namespace tailor::trainer
