#include <string_view>

#include "trainer/rewards/reward_reading.hpp"
#include "trainer/run_config.hpp"
#include "trainer/run_config_words.hpp"
#include "trainer/yaml_quotes.hpp"

namespace tailor::trainer {
namespace {

std::string mapping(const std::vector<std::pair<std::string, double>>& entries) {
  std::string out;
  for (const auto& [key, value] : entries)
    out += (out.empty() ? "" : ", ") + in_quotes(key) + ": " + configs::number_text(value);
  return '{' + out + '}';
}

/// Lines of one section, in the order of the struct.
class Lines {
 public:
  explicit Lines(std::string& out, const char* section) : out_(out) {
    out_ += std::string(section) + ":\n";
  }
  Lines& word(const char* key, const std::string& value) {
    out_ += std::string("  ") + key + ": " + value + '\n';
    return *this;
  }
  Lines& text(const char* key, const std::string& value) { return word(key, in_quotes(value)); }
  Lines& flag(const char* key, bool value) { return word(key, value ? "true" : "false"); }
  Lines& number(const char* key, double value) { return word(key, configs::number_text(value)); }
  Lines& number(const char* key, const std::optional<double>& value) {
    return value ? number(key, *value) : *this;
  }
  Lines& integer(const char* key, std::int64_t value) { return word(key, std::to_string(value)); }
  Lines& integer(const char* key, const std::optional<std::int64_t>& value) {
    return value ? integer(key, *value) : *this;
  }
  Lines& files(const char* key, const std::vector<DataFile>& files) {
    if (files.empty()) return *this;
    out_ += std::string("  ") + key + ":\n";
    for (const auto& file : files)
      out_ += "    - {path: " + in_quotes(file.path.string()) +
              ", format: " + word_of(file.format, kFormats) + "}\n";
    return *this;
  }

 private:
  std::string& out_;
};

void write_peft(std::string& out, const peft::LoraConfig& lora,
                const std::filesystem::path& adapter_path) {
  const auto modules = [](const std::vector<std::string>& names, bool is_pattern) {
    return is_pattern ? in_quotes(names.front()) : in_quotes(names);
  };
  Lines lines(out, "peft");
  lines.word("method", "lora")
      .integer("r", lora.r)
      .number("lora_alpha", lora.lora_alpha)
      .number("lora_dropout", lora.lora_dropout)
      .flag("use_rslora", lora.use_rslora)
      .word("target_modules", modules(lora.target_modules, lora.target_is_pattern));
  if (!lora.exclude_modules.empty())
    lines.word("exclude_modules", modules(lora.exclude_modules, lora.exclude_is_pattern));
  if (!lora.rank_pattern.empty()) lines.word("rank_pattern", mapping(lora.rank_pattern));
  if (!lora.alpha_pattern.empty()) lines.word("alpha_pattern", mapping(lora.alpha_pattern));
  const auto init = lora.init_lora_weights;
  lines.word("init_lora_weights", init == peft::InitLora::Gaussian ? "gaussian"
                                  : init == peft::InitLora::Random ? "false"
                                                                   : "true");
  lines.word("expert_lora", word_of(lora.expert_lora, kExpertLora))
      .word("moe_rank", word_of(lora.moe_rank, kMoeRanks))
      .word("moe_scale", word_of(lora.moe_scale, kMoeScales));
  if (!adapter_path.empty()) lines.text("adapter_path", adapter_path.string());
}

void write_rejects(Lines& lines, const std::vector<RejectRule>& rules) {
  std::vector<std::pair<std::string, double>> max, min;
  for (const auto& rule : rules) {
    max.emplace_back(word_of(rule.by, kRejects), rule.max);
    if (rule.min) min.emplace_back(word_of(rule.by, kRejects), *rule.min);
  }
  if (!max.empty()) lines.word("importance_sampling_reject", mapping(max));
  if (!min.empty()) lines.word("importance_sampling_reject_min", mapping(min));
}

void write_grpo(std::string& out, const GrpoConfig& grpo) {
  Lines lines(out, "grpo");
  lines.integer("num_generations", grpo.num_generations)
      .integer("max_completion_length", grpo.max_completion_length)
      .integer("min_new_tokens", grpo.min_new_tokens)
      .number("temperature", grpo.temperature)
      .number("top_p", grpo.top_p)
      .integer("top_k", grpo.top_k)
      .number("min_p", grpo.min_p)
      .number("repetition_penalty", grpo.repetition_penalty)
      .word("stop", in_quotes(grpo.stop))
      .integer("rollout_batch_size", grpo.rollout_batch_size)
      .integer("steps_per_generation", grpo.steps_per_generation)
      .integer("num_iterations", grpo.num_iterations)
      .integer("max_staleness", grpo.max_staleness)
      .word("scale_rewards", word_of(grpo.scale_rewards, kScaleRewards))
      .word("multi_objective_aggregation",
            word_of(grpo.multi_objective_aggregation, kRewardAggregations))
      .word("loss_type", word_of(grpo.loss_type, kLossTypes))
      .word("importance_sampling_level", word_of(grpo.importance_sampling_level, kRatioLevels))
      .number("epsilon", grpo.epsilon)
      .number("epsilon_high", grpo.epsilon_high)
      .number("delta", grpo.delta)
      .number("dual_clip", grpo.dual_clip)
      .number("sapo_temperature_pos", grpo.sapo_temperature_pos)
      .number("sapo_temperature_neg", grpo.sapo_temperature_neg)
      .number("vespo_k_pos", grpo.vespo_k_pos)
      .number("vespo_lambda_pos", grpo.vespo_lambda_pos)
      .number("vespo_k_neg", grpo.vespo_k_neg)
      .number("vespo_lambda_neg", grpo.vespo_lambda_neg)
      .number("off_policy_mask_threshold", grpo.off_policy_mask_threshold)
      .number("top_entropy_quantile", grpo.top_entropy_quantile)
      .number("entropy_coef", grpo.entropy_coef)
      .number("beta", grpo.beta)
      .number("kl_limit", grpo.kl_limit)
      .integer("kl_patience", grpo.kl_patience)
      .word("importance_sampling_correction",
            word_of(grpo.importance_sampling_correction, kCorrections))
      .number("importance_sampling_clip_max", grpo.importance_sampling_clip_max)
      .number("importance_sampling_clip_min", grpo.importance_sampling_clip_min)
      .number("mismatch_limit", grpo.mismatch_limit)
      .flag("mask_truncated_completions", grpo.mask_truncated_completions)
      .flag("dynamic_sampling", grpo.dynamic_sampling)
      .integer("max_num_gen_batches", grpo.max_num_gen_batches)
      .integer("zero_spread_patience", grpo.zero_spread_patience)
      .flag("share_prompts", grpo.share_prompts)
      .integer("reuse_forward_mb", grpo.reuse_forward_mb)
      .flag("log_completions", grpo.log_completions);
  write_rejects(lines, grpo.importance_sampling_reject);
  if (!grpo.asks_reference()) return;
  lines.word("kl_in", word_of(grpo.kl_in, kKlPlaces));
  if (grpo.kl_in == KlPlace::Loss)
    lines.word("kl_estimator", word_of(grpo.kl_estimator, kKlEstimators))
        .flag("use_bias_correction_kl", grpo.use_bias_correction_kl);
}

void write_train(std::string& out, const TrainConfig& train) {
  Lines lines(out, "train");
  lines.number("learning_rate", train.learning_rate)
      .word("lr_scheduler_type", word_of(train.lr_scheduler_type, kSchedules));
  if (train.warmup_steps)
    lines.integer("warmup_steps", train.warmup_steps);
  else
    lines.number("warmup_ratio", train.warmup_ratio);
  lines.number("decay_ratio", train.decay_ratio).number("min_lr_ratio", train.min_lr_ratio);
  if (train.max_steps)
    lines.integer("max_steps", train.max_steps);
  else
    lines.number("num_train_epochs", train.num_train_epochs);
  lines.integer("per_device_train_batch_size", train.per_device_train_batch_size)
      .integer("gradient_accumulation_steps", train.gradient_accumulation_steps)
      .number("max_grad_norm", train.max_grad_norm)
      .number("weight_decay", train.weight_decay)
      .number("adam_beta1", train.adam_beta1)
      .number("adam_beta2", train.adam_beta2)
      .number("adam_epsilon", train.adam_epsilon)
      .number("max_loss", train.max_loss)
      .integer("max_loss_patience", train.max_loss_patience)
      .integer("seed", static_cast<std::int64_t>(train.seed))
      .integer("threads", train.threads);
}

void write_router(std::string& out, const RouterTraining& router) {
  Lines lines(out, "router");
  lines.flag("train_router", router.train_router)
      .number("router_aux_loss_coef", router.router_aux_loss_coef)
      .word("router_aux_loss_scope", word_of(router.router_aux_loss_scope, kBalanceScopes))
      .number("router_seq_aux_loss_coef", router.router_seq_aux_loss_coef)
      .number("router_z_loss_coef", router.router_z_loss_coef)
      .number("router_bias_update_rate", router.router_bias_update_rate)
      .number("expert_capacity_factor", router.capacity.factor);
  if (router.capacity.factor > 0.0)
    lines.word("token_drop_policy", word_of(router.capacity.drop, kTokenDrops));
}

std::string reports(const OutputConfig& output) {
  std::string out;
  for (const auto& [given, word] : {std::pair(output.jsonl, "jsonl"),
                                    {output.tensorboard, "tensorboard"},
                                    {output.html, "html"}})
    if (given) out += (out.empty() ? "[" : ", ") + std::string(word);
  return out.empty() ? "none" : out + ']';
}

}  // namespace

std::string to_yaml(const GrpoConfig& config) {
  std::string out;
  write_grpo(out, config);
  return out;
}

std::string to_yaml(const RunConfig& config) {
  std::string out = "task: " + config.task + '\n';
  Lines(out, "model")
      .text("name_or_path", config.model.name_or_path.string())
      .word("dtype", config.model.dtype)
      .word("compute_dtype", config.model.compute_dtype)
      .word("device", config.model.device);
  if (config.peft) write_peft(out, *config.peft, config.adapter_path);
  const auto& data = config.data;
  Lines lines(out, "data");
  lines.files("train", data.train)
      .files("eval", data.eval)
      .integer("max_length", data.max_length)
      .word("over_length", word_of(data.over_length, kOverLengths))
      .flag("shuffle", data.shuffle);
  if (config.task != "grpo")
    lines.flag("packing", data.packing)
        .flag("assistant_only_loss", data.assistant_only_loss)
        .flag("completion_only_loss", data.completion_only_loss);
  if (config.task == "grpo") {
    write_grpo(out, config.grpo);
    out += rewards_yaml(config.rewards);
  }
  write_train(out, config.train);
  if (!config.router.is_default()) write_router(out, config.router);
  const auto& parallel = config.parallel;
  Lines(out, "parallel")
      .integer("tensor_parallel_size", parallel.tensor_parallel_size)
      .integer("expert_parallel_size", parallel.expert_parallel_size)
      .integer("pipeline_parallel_size", parallel.pipeline_parallel_size)
      .integer("dp_shard_size", parallel.dp_shard_size);
  const auto& output = config.output;
  Lines(out, "output")
      .text("dir", output.dir.string())
      .integer("save_steps", output.save_steps)
      .integer("save_total_limit", output.save_total_limit)
      .integer("logging_steps", output.logging_steps)
      .integer("eval_steps", output.eval_steps)
      .word("report_to", reports(output))
      .flag("log_on_each_rank", output.log_on_each_rank)
      .flag("resume_from_checkpoint", output.resume);
  return out;
}

}  // namespace tailor::trainer
