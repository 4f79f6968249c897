#include "trainer/checkpoint/resume.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <sstream>
#include <string_view>
#include <type_traits>

#include "trainer/rewards/reward_reading.hpp"
#include "trainer/run_config_words.hpp"

namespace tailor::trainer {
namespace {

template <typename T>
std::string text(const T& value) {
  std::ostringstream out;
  out.precision(17);
  if constexpr (std::is_same_v<T, bool>) {
    out << (value ? "true" : "false");
  } else if constexpr (std::is_enum_v<T>) {
    out << static_cast<int>(value);
  } else {
    out << value;
  }
  return out.str();
}
std::string text(const std::filesystem::path& path) {
  return path.empty() ? "none" : path.string();
}
template <typename T>
std::string text(const std::optional<T>& value) {
  return value ? text(*value) : "none";
}
std::string text(const std::vector<std::string>& values) {
  std::string out;
  for (const auto& value : values) out += (out.empty() ? "" : ", ") + value;
  return "[" + out + "]";
}
std::string text(const std::vector<std::pair<std::string, double>>& values) {
  std::string out;
  for (const auto& [name, value] : values)
    out += (out.empty() ? "" : ", ") + name + ": " + text(value);
  return "{" + out + "}";
}
std::string text(Schedule schedule) {
  switch (schedule) {
    case Schedule::Constant:
      return "constant";
    case Schedule::Linear:
      return "linear";
    case Schedule::Cosine:
      return "cosine";
    case Schedule::Wsd:
      return "wsd";
  }
  return "";
}
std::string text(OverLength over_length) {
  switch (over_length) {
    case OverLength::Truncate:
      return "truncate";
    case OverLength::Drop:
      return "drop";
    case OverLength::Raise:
      return "raise";
  }
  return "";
}
std::string text(peft::InitLora init) {
  switch (init) {
    case peft::InitLora::Default:
      return "true";
    case peft::InitLora::Gaussian:
      return "gaussian";
    case peft::InitLora::Random:
      return "false";
  }
  return "";
}

/// Adds a line to a list where two values differ.
class Comparison {
 public:
  explicit Comparison(std::vector<std::string>& lines) : lines_(lines) {}

  template <typename T>
  void operator()(const std::string& key, const T& begun, const T& now) {
    if (begun == now) return;
    lines_.push_back(key + ": begun with " + text(begun) + ", now " + text(now));
  }

 private:
  std::vector<std::string>& lines_;
};

void compare_peft(const peft::LoraConfig& a, const peft::LoraConfig& b, Comparison& differs) {
  differs("peft.r", a.r, b.r);
  differs("peft.lora_alpha", a.lora_alpha, b.lora_alpha);
  differs("peft.lora_dropout", a.lora_dropout, b.lora_dropout);
  differs("peft.use_rslora", a.use_rslora, b.use_rslora);
  differs("peft.target_modules", a.target_modules, b.target_modules);
  differs("peft.exclude_modules", a.exclude_modules, b.exclude_modules);
  differs("peft.rank_pattern", a.rank_pattern, b.rank_pattern);
  differs("peft.alpha_pattern", a.alpha_pattern, b.alpha_pattern);
  differs("peft.init_lora_weights", a.init_lora_weights, b.init_lora_weights);
  const auto compare = [&](const char* key, auto one, auto other, auto words) {
    differs(key, word_of(one, words), word_of(other, words));
  };
  compare("peft.expert_lora", a.expert_lora, b.expert_lora, kExpertLora);
  compare("peft.moe_rank", a.moe_rank, b.moe_rank, kMoeRanks);
  compare("peft.moe_scale", a.moe_scale, b.moe_scale, kMoeScales);
}

void compare_router(const RouterTraining& a, const RouterTraining& b, Comparison& differs) {
  differs("router.train_router", a.train_router, b.train_router);
  differs("router.router_aux_loss_coef", a.router_aux_loss_coef, b.router_aux_loss_coef);
  differs("router.router_aux_loss_scope", word_of(a.router_aux_loss_scope, kBalanceScopes),
          word_of(b.router_aux_loss_scope, kBalanceScopes));
  differs("router.router_seq_aux_loss_coef", a.router_seq_aux_loss_coef,
          b.router_seq_aux_loss_coef);
  differs("router.router_z_loss_coef", a.router_z_loss_coef, b.router_z_loss_coef);
  differs("router.router_bias_update_rate", a.router_bias_update_rate, b.router_bias_update_rate);
  differs("router.expert_capacity_factor", a.capacity.factor, b.capacity.factor);
  differs("router.token_drop_policy", word_of(a.capacity.drop, kTokenDrops),
          word_of(b.capacity.drop, kTokenDrops));
}

void compare_train(const TrainConfig& a, const TrainConfig& b, Comparison& differs) {
  differs("train.learning_rate", a.learning_rate, b.learning_rate);
  differs("train.lr_scheduler_type", a.lr_scheduler_type, b.lr_scheduler_type);
  differs("train.warmup_steps", a.warmup_steps, b.warmup_steps);
  differs("train.warmup_ratio", a.warmup_ratio, b.warmup_ratio);
  differs("train.decay_ratio", a.decay_ratio, b.decay_ratio);
  differs("train.min_lr_ratio", a.min_lr_ratio, b.min_lr_ratio);
  differs("train.max_grad_norm", a.max_grad_norm, b.max_grad_norm);
  differs("train.weight_decay", a.weight_decay, b.weight_decay);
  differs("train.adam_beta1", a.adam_beta1, b.adam_beta1);
  differs("train.adam_beta2", a.adam_beta2, b.adam_beta2);
  differs("train.adam_epsilon", a.adam_epsilon, b.adam_epsilon);
  differs("train.seed", a.seed, b.seed);
}

void compare_data(const DataConfig& a, const DataConfig& b, Comparison& differs) {
  differs("data.max_length", a.max_length, b.max_length);
  differs("data.packing", a.packing, b.packing);
  differs("data.assistant_only_loss", a.assistant_only_loss, b.assistant_only_loss);
  differs("data.completion_only_loss", a.completion_only_loss, b.completion_only_loss);
  differs("data.over_length", a.over_length, b.over_length);
  differs("data.shuffle", a.shuffle, b.shuffle);
}

/// What may change: how fast it goes, when it stops, what is kept beside it.
constexpr std::string_view kHarmless[] = {
    "rollout_batch_size", "log_completions", "mismatch_limit", "zero_spread_patience",
    "kl_limit",           "kl_patience",     "share_prompts",  "reuse_forward_mb"};

/// "  key: value" lines of a section.
std::map<std::string, std::string> values_of(const std::string& yaml) {
  std::map<std::string, std::string> out;
  std::istringstream lines(yaml);
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(": ");
    if (colon != std::string::npos) out[line.substr(2, colon - 2)] = line.substr(colon + 2);
  }
  return out;
}

void compare_grpo(const GrpoConfig& a, const GrpoConfig& b, Comparison& refused,
                  Comparison& noted) {
  auto begun = values_of(to_yaml(a)), now = values_of(to_yaml(b));
  for (const auto& [key, value] : now) begun.try_emplace(key, "none");
  for (const auto& [key, value] : begun) {
    const auto found = now.try_emplace(key, "none").first->second;
    const bool harmless = std::ranges::find(kHarmless, key) != std::end(kHarmless);
    (harmless ? noted : refused)("grpo." + key, value, found);
  }
}

/// The rewards as they decide scores: where their files lie and how long they may take is left out.
std::string scoring(std::vector<RewardConfig> rewards) {
  for (auto& reward : rewards) {
    const RewardConfig plain;
    reward.workers = plain.workers;
    reward.timeout_s = plain.timeout_s;
    reward.memory_limit_mb = plain.memory_limit_mb;
    reward.max_restarts = plain.max_restarts;
    reward.start_timeout_s = plain.start_timeout_s;
    reward.python_executable = plain.python_executable;
    reward.file = reward.file.filename();
    reward.schema = reward.schema.filename();
    reward.cwd = plain.cwd;
  }
  return rewards_yaml(rewards);
}

}  // namespace

ResumeDifferences compare_configs(const RunConfig& begun, const RunConfig& now) {
  ResumeDifferences out;
  Comparison refused(out.refused), noted(out.noted);
  refused("task", begun.task, now.task);
  refused("model.dtype", begun.model.dtype, now.model.dtype);
  refused("model.compute_dtype", begun.model.compute_dtype, now.model.compute_dtype);
  refused("peft", begun.peft.has_value(), now.peft.has_value());
  if (begun.peft && now.peft) compare_peft(*begun.peft, *now.peft, refused);
  compare_router(begun.router, now.router, refused);
  compare_data(begun.data, now.data, refused);
  compare_train(begun.train, now.train, refused);
  if (begun.task == "grpo" && now.task == "grpo") {
    compare_grpo(begun.grpo, now.grpo, refused, noted);
    refused("rewards", scoring(begun.rewards), scoring(now.rewards));
  }

  noted("model.name_or_path", begun.model.name_or_path, now.model.name_or_path);
  // The run began from it and has its factors in the checkpoint.
  noted("peft.adapter_path", begun.adapter_path, now.adapter_path);
  noted("train.max_steps", begun.train.max_steps, now.train.max_steps);
  noted("train.num_train_epochs", begun.train.num_train_epochs, now.train.num_train_epochs);
  const bool other_length =
      begun.train.max_steps != now.train.max_steps ||
      (!now.train.max_steps && begun.train.num_train_epochs != now.train.num_train_epochs);
  if (other_length && now.train.lr_scheduler_type != Schedule::Constant)
    out.noted.push_back("train.lr_scheduler_type: " + text(now.train.lr_scheduler_type) +
                        " is laid over the new number of steps: the rate may jump");
  noted("train.threads", begun.train.threads, now.train.threads);
  // A fingerprint holds the rows of a step over all ranks, which is what matters.
  noted("train.per_device_train_batch_size", begun.train.per_device_train_batch_size,
        now.train.per_device_train_batch_size);
  noted("train.gradient_accumulation_steps", begun.train.gradient_accumulation_steps,
        now.train.gradient_accumulation_steps);
  noted("parallel.tensor_parallel_size", begun.parallel.tensor_parallel_size,
        now.parallel.tensor_parallel_size);
  noted("parallel.expert_parallel_size", begun.parallel.expert_parallel_size,
        now.parallel.expert_parallel_size);
  noted("parallel.pipeline_parallel_size", begun.parallel.pipeline_parallel_size,
        now.parallel.pipeline_parallel_size);
  noted("parallel.dp_shard_size", begun.parallel.dp_shard_size, now.parallel.dp_shard_size);
  noted("train.max_loss", begun.train.max_loss, now.train.max_loss);
  noted("output.eval_steps", begun.output.eval_steps, now.output.eval_steps);
  noted("output.logging_steps", begun.output.logging_steps, now.output.logging_steps);
  noted("output.save_steps", begun.output.save_steps, now.output.save_steps);
  return out;
}

std::vector<std::string> compare_fingerprints(const std::map<std::string, std::string>& begun,
                                              const std::map<std::string, std::string>& now) {
  std::vector<std::string> out;
  for (const auto& [name, value] : now) {
    const auto found = begun.find(name);
    if (found == begun.end() || found->second != value) out.push_back(name);
  }
  return out;
}

std::string describe_change(const std::string& name,
                            const std::map<std::string, std::string>& begun,
                            const std::map<std::string, std::string>& now) {
  const auto before = begun.find(name);
  const auto& value = now.at(name);
  if (before == begun.end() || value.find_first_not_of("0123456789abcdef") == std::string::npos)
    return name + ": not the same any more";
  return name + ": begun with " + before->second + ", now " + value;
}

}  // namespace tailor::trainer
