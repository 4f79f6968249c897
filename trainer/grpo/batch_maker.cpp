#include "trainer/grpo/batch_maker.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>

#include "trainer/grpo/facts.hpp"
#include "trainer/grpo/measure.hpp"
#include "trainer/grpo/policy_loss.hpp"

namespace tailor::trainer {
namespace {

using Json = nlohmann::ordered_json;

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

struct BatchMaker::Collected {
  std::vector<Rollout> rollouts;  // of this rank
  std::vector<Judged> judged;     // one each
  Judgement judgement;            // of all ranks
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
  collect(all, std::move(pending));
  if (grpo.dynamic_sampling) {
    while (all.num_groups < plan_.num_groups && all.num_rounds < grpo.max_num_gen_batches)
      collect(all, sample(source, num_rollouts, plan_.num_groups - all.num_groups, all.num_groups,
                          settings.step));
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
  out.batch.has_spread = std::ranges::count(spread_of(all.judgement.functions), true) > 0;
  out.rewards_failed = all.judgement.failed && !all.judgement.scored;
  out.facts = batch_facts(task_, all.judgement, weighed);
  if (grpo.max_staleness > 0) out.facts.push_back({"staleness", settings.step - 1 - sampled_at});
  add_rejected(all, out.facts);
  add_progress(all, out.facts);
  warn_of_faults(all.judgement.faults);
  const auto places = places_of(all.rollouts, grpo.num_generations);
  for (std::size_t i = 0; i < all.rollouts.size(); ++i)
    all.rollouts[i].advantage = weighed.values[static_cast<std::size_t>(places[i])];
  if (grpo.log_completions) record(all, weighed, places, out);
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
void BatchMaker::collect(Collected& all, PendingBatch pending) const {
  const auto begin = Clock::now();
  const auto scored = pending.scored.get();
  auto judged = judge(task_, pending.batch.rollouts, scored, pending.batch.num_groups,
                      config_.grpo.num_generations, policy_.mesh);
  all.reward_s += seconds_since(begin);
  all.reward_busy_s += scored.busy_s;
  all.rollout_s += pending.rollout_s;
  all.measure_s += pending.measure_s;
  all.num_rounds += 1;
  all.judgement.scored = all.judgement.scored || judged.scored;
  all.judgement.failed = all.judgement.failed || judged.failed;
  all.num_tokens += std::accumulate(judged.lengths.begin(), judged.lengths.end(), 0.0);
  keep(all, std::move(pending), std::move(judged));
}

/// Which groups' rewards differ.
std::vector<bool> BatchMaker::spread_of(const std::vector<RewardColumn>& functions) const {
  return advantages(functions, weights_, config_.grpo.num_generations, config_.grpo.scale_rewards,
                    config_.grpo.multi_objective_aggregation)
      .group_has_spread;
}

/// Appends the groups that are to be learnt from, numbered on from those that are there.
void BatchMaker::keep(Collected& all, PendingBatch drawn, Judgement judged) const {
  const auto generations = config_.grpo.num_generations;
  std::vector<bool> keeps(static_cast<std::size_t>(drawn.batch.num_groups), true);
  const bool last = all.num_rounds >= config_.grpo.max_num_gen_batches;
  if (config_.grpo.dynamic_sampling && !last) keeps = spread_of(judged.functions);
  std::vector<std::int64_t> number(keeps.size(), -1);
  for (std::size_t g = 0; g < keeps.size(); ++g) {
    if (!keeps[g]) {
      ++all.num_discarded;
      continue;
    }
    number[g] = all.num_groups++;
    for (auto i = g * static_cast<std::size_t>(generations);
         i < (g + 1) * static_cast<std::size_t>(generations); ++i) {
      for (std::size_t f = 0; f < judged.functions.size(); ++f)
        all.judgement.functions[f].push_back(judged.functions[f][i]);
      all.judgement.lengths.push_back(judged.lengths[i]);
      all.judgement.stopped.push_back(judged.stopped[i]);
    }
  }
  for (std::size_t i = 0; i < drawn.batch.rollouts.size(); ++i) {
    auto& rollout = drawn.batch.rollouts[i];
    rollout.group = number[static_cast<std::size_t>(rollout.group)];
    if (rollout.group < 0) continue;
    all.rollouts.push_back(std::move(rollout));
    all.judged.push_back((*drawn.samples)[i]);
  }
  all.judgement.faults.insert(all.judgement.faults.end(), judged.faults.begin(),
                              judged.faults.end());
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
  return advantages(functions, weights, config_.grpo.num_generations, config_.grpo.scale_rewards,
                    config_.grpo.multi_objective_aggregation);
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
  if (policy_.mesh.tp->rank() != 0) return;  // the others have the same
  for (std::size_t i = 0; i < all.judged.size(); ++i) {
    const auto place = static_cast<std::size_t>(places[i]);
    const auto& judged = all.judged[i];
    const auto or_null = [](const std::optional<double>& value) {
      return value ? Json(*value) : Json();
    };
    Json rewards = Json::object();
    for (std::size_t f = 0; f < task_.reward_configs.size(); ++f)
      rewards[task_.reward_configs[f].name] = or_null(all.judgement.functions[f][place]);
    const Json line = {{"group", all.rollouts[i].group},
                       {"prompt", Json::parse(judged.prompt_json)},
                       {"completion", judged.completion},
                       {"rewards", rewards},
                       {"reward", or_null(weighed.rewards[place])},
                       {"advantage", all.rollouts[i].advantage},
                       {"finish_reason", judged.stopped ? "stop" : "length"},
                       {"num_tokens", judged.num_tokens},
                       {"columns", Json::parse(judged.columns_json)}};
    out.records.push_back(line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

}  // namespace tailor::trainer
