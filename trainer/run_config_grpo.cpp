// The `grpo` section of a job file: read and checked.
#include <cmath>

#include "trainer/run_config_ranges.hpp"
#include "trainer/run_config_sections.hpp"
#include "trainer/run_config_words.hpp"

namespace tailor::trainer {
namespace {

using configs::Section;

std::optional<double> optional_number(Section& section, const std::string& key,
                                      configs::Range range) {
  if (!section.has(key)) return std::nullopt;
  return section.number(key, range.min, range);
}

void read_names(Section& grpo) {
  grpo.alias("vllm_importance_sampling_clip_max", "importance_sampling_clip_max");
  grpo.alias("vllm_importance_sampling_clip_min", "importance_sampling_clip_min");
  grpo.alias("vllm_importance_sampling_mode", "importance_sampling_correction");
  grpo.redirect("vllm_importance_sampling_correction", "importance_sampling_correction");
  grpo.redirect("rollout_rs", "importance_sampling_reject");
  grpo.alias("stop_strings", "stop");
  grpo.redirect("kl_coef", "beta");
  grpo.redirect("max_new_tokens", "max_completion_length");
  grpo.redirect("num_samples", "num_generations");
  grpo.redirect("clip_ratio", "epsilon");
  grpo.redirect("advantage_estimator", "scale_rewards");
  for (const auto* word : {"use_vllm", "vllm_mode", "vllm_gpu_memory_utilization"})
    if (grpo.has(word)) grpo.reject(word, "leave it out: this program samples by itself");
  if (grpo.has("max_prompt_length"))
    grpo.reject("max_prompt_length",
                "leave it out: a prompt longer than data.max_length is one of "
                "data.over_length");
  if (grpo.has("sync_ref_model"))
    grpo.reject("sync_ref_model", "leave it out: the reference is the model without its adapter");
}

void read_sampling(Section& grpo, GrpoConfig& config) {
  constexpr std::int64_t kMost = 1 << 24;
  config.num_generations = grpo.integer("num_generations", config.num_generations, 2, 1 << 16);
  config.max_completion_length =
      grpo.integer("max_completion_length", config.max_completion_length, 1, kMost);
  config.min_new_tokens = grpo.integer("min_new_tokens", config.min_new_tokens, 0, kMost);
  if (config.min_new_tokens > config.max_completion_length)
    grpo.reject("min_new_tokens", "expected at most max_completion_length (" +
                                      std::to_string(config.max_completion_length) + ')');
  config.temperature = grpo.number("temperature", config.temperature, kPositive);
  config.top_p = grpo.number("top_p", config.top_p, kShareAboveZero);
  config.top_k = grpo.integer("top_k", config.top_k, 0, kMost);
  config.min_p = grpo.number("min_p", config.min_p, kShare);
  config.repetition_penalty =
      grpo.number("repetition_penalty", config.repetition_penalty, kPositive);
  config.stop = grpo.names("stop", /*required=*/false);
  config.rollout_batch_size =
      grpo.integer("rollout_batch_size", config.rollout_batch_size, 1, 1 << 16);
  if (grpo.has("steps_per_generation"))
    config.steps_per_generation = grpo.integer("steps_per_generation", 1, 1, 1 << 16);
  config.num_iterations = grpo.integer("num_iterations", config.num_iterations, 1, 1 << 10);
  config.max_staleness = grpo.integer("max_staleness", config.max_staleness, 0, 1 << 20);
}

/// "gspo" is the sequence's ratio with grpo's loss.
LossType read_loss_type(Section& grpo, GrpoConfig& config) {
  const auto word = grpo.choice(
      "loss_type",
      {"grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "minirl", "luspo", "vespo", "gspo"},
      word_of(config.loss_type, kLossTypes));
  if (word == "gspo" && grpo.has("importance_sampling_level") &&
      config.importance_sampling_level == RatioLevel::Token)
    grpo.report("loss_type",
                "gspo is grpo with importance_sampling_level: sequence, and token is given");
  if (word != "gspo")
    return static_cast<LossType>(std::ranges::find(kLossTypes, word) - kLossTypes.begin());
  config.importance_sampling_level = RatioLevel::Sequence;
  return LossType::Grpo;
}

/// true and false are group and none, as in TRL.
ScaleRewards read_scale(Section& grpo) {
  const auto word = grpo.choice(
      "scale_rewards", {"group", "batch", "none", "rloo", "bnpo_beta", "true", "false"}, "group");
  if (word == "true") return ScaleRewards::Group;
  if (word == "false") return ScaleRewards::None;
  return static_cast<ScaleRewards>(std::ranges::find(kScaleRewards, word) - kScaleRewards.begin());
}

void read_loss(Section& grpo, GrpoConfig& config) {
  config.importance_sampling_level =
      read_word(grpo, "importance_sampling_level", kRatioLevels, config.importance_sampling_level);
  config.loss_type = read_loss_type(grpo, config);
  config.epsilon = grpo.number("epsilon", config.epsilon, kNotNegative);
  config.epsilon_high = optional_number(grpo, "epsilon_high", kNotNegative);
  config.delta = optional_number(grpo, "delta", kPositive);
  config.dual_clip = optional_number(grpo, "dual_clip", kAboveOne);
  config.sapo_temperature_pos =
      grpo.number("sapo_temperature_pos", config.sapo_temperature_pos, kPositive);
  config.sapo_temperature_neg =
      grpo.number("sapo_temperature_neg", config.sapo_temperature_neg, kPositive);
  config.vespo_k_pos = grpo.number("vespo_k_pos", config.vespo_k_pos, kNotNegative);
  config.vespo_lambda_pos = grpo.number("vespo_lambda_pos", config.vespo_lambda_pos, kNotNegative);
  config.vespo_k_neg = grpo.number("vespo_k_neg", config.vespo_k_neg, kNotNegative);
  config.vespo_lambda_neg = grpo.number("vespo_lambda_neg", config.vespo_lambda_neg, kNotNegative);
  config.off_policy_mask_threshold =
      optional_number(grpo, "off_policy_mask_threshold", kNotNegative);
  config.top_entropy_quantile =
      grpo.number("top_entropy_quantile", config.top_entropy_quantile, kShareAboveZero);
  config.entropy_coef = grpo.number("entropy_coef", config.entropy_coef, kNotNegative);
  if (config.delta && *config.delta <= 1.0 + config.clip_high())
    grpo.reject("delta", "expected more than 1 + epsilon_high (" +
                             configs::number_text(1.0 + config.clip_high()) + ')');
  if (config.loss_type == LossType::MiniRl && config.scale_rewards != ScaleRewards::None)
    grpo.report("loss_type", "minirl needs scale_rewards: none");
  if (config.loss_type == LossType::Cispo && !config.epsilon_high)
    grpo.report("loss_type", "cispo needs epsilon_high, the cap of the ratio (5.0 is common)");
  if (config.loss_type == LossType::Luspo &&
      config.importance_sampling_level != RatioLevel::Sequence)
    grpo.report("loss_type", "luspo needs importance_sampling_level: sequence");
}

void read_kl(Section& grpo, GrpoConfig& config) {
  config.beta = grpo.number("beta", config.beta, kNotNegative);
  config.kl_estimator = read_word(grpo, "kl_estimator", kKlEstimators, config.kl_estimator);
  config.kl_in = read_word(grpo, "kl_in", kKlPlaces, config.kl_in);
  config.use_bias_correction_kl =
      grpo.boolean("use_bias_correction_kl", config.use_bias_correction_kl);
  config.kl_limit = grpo.number("kl_limit", config.kl_limit, kNotNegative);
  config.kl_patience = grpo.integer("kl_patience", config.kl_patience, 1, 1 << 30);
  if (config.kl_in == KlPlace::Off) {
    if (config.beta > 0.0) grpo.report("beta", "expected 0 where kl_in is off");
    for (const auto* key : {"kl_estimator", "use_bias_correction_kl"})
      if (grpo.has(key)) grpo.report(key, "has no effect where kl_in is off");
    return;
  }
  for (const auto* key : {"kl_estimator", "kl_in", "use_bias_correction_kl"})
    if (config.beta == 0.0 && grpo.has(key)) grpo.report(key, "has no effect without beta above 0");
  if (config.kl_in == KlPlace::Reward && config.beta > 0.0) {
    if (grpo.has("kl_estimator") && config.kl_estimator != KlEstimator::K1)
      grpo.report("kl_estimator", "expected k1 where kl_in is reward");
    if (config.use_bias_correction_kl)
      grpo.report("use_bias_correction_kl", "has no effect where kl_in is reward");
    if (config.multi_objective_aggregation == RewardAggregation::NormalizeThenSum)
      grpo.report("kl_in", "expected loss where multi_objective_aggregation is normalize_then_sum");
    if (config.scale_rewards == ScaleRewards::BnpoBeta)
      grpo.report("kl_in",
                  "expected loss where scale_rewards is bnpo_beta: rewards are from 0 to 1");
  }
}

/// The place among kRejects of a key of the mapping `key`; absent, and noted, where it is none.
std::optional<RejectBy> read_reject_word(Section& grpo, const std::string& key,
                                         const std::string& word) {
  const auto found = std::ranges::find(kRejects, word);
  if (found != kRejects.end()) return static_cast<RejectBy>(found - kRejects.begin());
  std::string words;
  for (const auto* known : kRejects) words += (words.empty() ? "" : ", ") + std::string(known);
  const auto near = configs::nearest(word, {kRejects.begin(), kRejects.end()});
  grpo.report(key, "expected keys among " + words + ", found " + word +
                       (near.empty() ? "" : "; did you mean \"" + near + "\"?"));
  return {};
}

/// Upper bounds by statistic, and the lower ones of ratios in a mapping of their own.
void read_rejects(Section& grpo, GrpoConfig& config) {
  const std::string key = "importance_sampling_reject", key_min = key + "_min";
  auto& rules = config.importance_sampling_reject;
  for (const auto& [word, bound] : grpo.numbers(key, kPositive))
    if (const auto by = read_reject_word(grpo, key, word)) rules.push_back({*by, bound, {}});
  for (const auto& [word, bound] : grpo.numbers(key_min, kNotNegative)) {
    const auto by = read_reject_word(grpo, key_min, word);
    if (!by) continue;
    const auto rule = std::ranges::find(rules, *by, &RejectRule::by);
    if (!bounds_ratio(*by))
      grpo.report(key_min, word + " has no lower bound: only ratios have, which end in k1");
    else if (rule == rules.end())
      grpo.report(key_min, word + " needs its upper bound in " + key);
    else if (bound > rule->max)
      grpo.report(key_min, word + ": expected at most its upper bound (" +
                               configs::number_text(rule->max) + ')');
    else
      rule->min = bound;
  }
  for (const auto& rule : rules)
    if (bounds_ratio(rule.by) && !rule.min && rule.max < 1.0)
      grpo.report(key, word_of(rule.by, kRejects) +
                           ": expected at least 1 without a lower bound in " + key_min +
                           ", found " + configs::number_text(rule.max));
}

void read_correction(Section& grpo, GrpoConfig& config) {
  config.importance_sampling_correction = read_word(
      grpo, "importance_sampling_correction", kCorrections, config.importance_sampling_correction);
  config.importance_sampling_clip_max =
      grpo.number("importance_sampling_clip_max", config.importance_sampling_clip_max, kPositive);
  config.importance_sampling_clip_min =
      optional_number(grpo, "importance_sampling_clip_min", kNotNegative);
  if (config.importance_sampling_clip_min.value_or(0.0) > config.importance_sampling_clip_max)
    grpo.report("importance_sampling_clip_min",
                "expected at most importance_sampling_clip_max (" +
                    configs::number_text(config.importance_sampling_clip_max) + ')');
  config.mismatch_limit = optional_number(grpo, "mismatch_limit", kNotNegative);
  const auto correction = config.importance_sampling_correction;
  if (config.loss_type == LossType::Vespo &&
      (correction == Correction::SequenceTruncate || correction == Correction::SequenceMask))
    grpo.report("importance_sampling_correction",
                "expected one of tokens with loss_type vespo, whose own weight is the sequence's");
  read_rejects(grpo, config);
  const bool corrects = correction != Correction::Off && correction != Correction::Auto;
  const std::string shapes =
      " where top_p, top_k, min_p, repetition_penalty or min_new_tokens shape what is sampled: the "
      "trainer's log-probabilities are of the whole distribution";
  if (config.shaping_keys().empty()) return;
  if (corrects) grpo.report("importance_sampling_correction", "expected auto or off" + shapes);
  if (!config.importance_sampling_reject.empty())
    grpo.report("importance_sampling_reject", "leave it out" + shapes);
}

void read_batches(Section& grpo, GrpoConfig& config) {
  config.mask_truncated_completions =
      grpo.boolean("mask_truncated_completions", config.mask_truncated_completions);
  config.dynamic_sampling = grpo.boolean("dynamic_sampling", config.dynamic_sampling);
  if (config.dynamic_sampling && config.max_staleness > 0)
    grpo.report("dynamic_sampling",
                "expected false with max_staleness above 0: which groups stay is known only once "
                "they are scored");
  config.max_num_gen_batches =
      grpo.integer("max_num_gen_batches", config.max_num_gen_batches, 0, 1 << 20);
  config.zero_spread_patience =
      grpo.integer("zero_spread_patience", config.zero_spread_patience, 0, 1 << 30);
  if (config.dynamic_sampling && config.max_num_gen_batches + config.zero_spread_patience == 0)
    grpo.report("max_num_gen_batches",
                "expected a limit, or one of zero_spread_patience: with 0 for both a job whose "
                "prompts never have spread would draw for ever");
  config.log_completions = grpo.boolean("log_completions", config.log_completions);
  config.share_prompts = grpo.boolean("share_prompts", config.share_prompts);
  config.reuse_forward_mb = grpo.integer("reuse_forward_mb", config.reuse_forward_mb, 0, 1 << 30);
  const auto replay = grpo.choice("router_replay", {"off", "r2", "r3"}, "off");
  if (replay != "off")
    grpo.reject("router_replay", "expected off: this build does not replay routes");
}

}  // namespace

GrpoConfig read_grpo(Section section) {
  GrpoConfig config;
  read_names(section);
  read_sampling(section, config);
  config.scale_rewards = read_scale(section);
  config.multi_objective_aggregation =
      read_word(section, "multi_objective_aggregation", kRewardAggregations,
                config.multi_objective_aggregation);
  if (config.multi_objective_aggregation == RewardAggregation::NormalizeThenSum &&
      config.scale_rewards != ScaleRewards::Group)
    section.report("scale_rewards",
                   "has no effect where multi_objective_aggregation is normalize_then_sum");
  read_loss(section, config);
  read_kl(section, config);
  read_correction(section, config);
  read_batches(section, config);
  section.finish();
  return config;
}

void check_grpo(Section& root, const RunConfig& config) {
  const auto& grpo = config.grpo;
  const auto accumulation = config.train.gradient_accumulation_steps;
  if (grpo.steps_per_generation && *grpo.steps_per_generation % accumulation != 0)
    root.section("grpo").reject("steps_per_generation",
                                "expected a multiple of train.gradient_accumulation_steps (" +
                                    std::to_string(accumulation) + ')');
  if (config.peft && config.peft->lora_dropout > 0.0)
    root.section("peft").reject("lora_dropout",
                                "expected 0 for GRPO: dropout would make the policy that trains "
                                "another than the one that samples");
  auto data = root.section("data");
  for (const auto* key : {"packing", "assistant_only_loss", "completion_only_loss"})
    if (data.has(key)) data.report(key, "leave it out: it has no meaning for prompts");
  if (config.parallel.pipeline_parallel_size > 1)
    root.section("parallel")
        .reject("pipeline_parallel_size", "expected 1 for GRPO: a stage cannot sample");
}

}  // namespace tailor::trainer
