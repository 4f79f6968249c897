#include "trainer/run_config_sections.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "trainer/run_config_paths.hpp"
#include "trainer/run_config_ranges.hpp"
#include "trainer/run_config_words.hpp"

namespace tailor::trainer {
namespace {

using configs::Section;

constexpr auto kMaxInteger = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMaxRows = 1 << 20;  // so that products of rows and lengths fit

std::vector<DataFile> read_files(Section& data, const std::string& key, const PathBase& base,
                                 bool required, bool of_prompts) {
  constexpr auto kExpected =
      "expected a list of files, as in [{path: data/train.jsonl, format: messages}]";
  if (data.is_text(key)) {
    data.reject(key, kExpected);
    return {};
  }
  std::vector<DataFile> files;
  for (auto& entry : data.sections(key, required)) {
    entry.redirect("file", "path");
    entry.redirect("type", "format");
    auto format = DataFormat::Messages;
    if (of_prompts)
      entry.choice("format", {"prompt", "messages"}, "prompt");  // the keys of a row tell
    else
      format = read_word(entry, "format", kFormats, format);
    files.push_back({.path = read_path(entry, "path", base, file_problem),
                     .format = format,
                     .place = entry.place()});
    entry.finish();
  }
  return files;
}

/// warmup_steps counts steps; a fraction below 1 is a share of all steps, as in transformers 5.
void read_warmup(Section& train, TrainConfig& config) {
  const auto warmup = train.number("warmup_steps", 0.0, kNotNegative);
  config.warmup_ratio = train.number("warmup_ratio", config.warmup_ratio, kBelowOne);
  if (!train.has("warmup_steps") || train.failed("warmup_steps")) return;
  if (train.has("warmup_ratio"))
    train.report("warmup_ratio", "means the same as warmup_steps, which is given too");
  if (train.is_integer("warmup_steps"))
    config.warmup_steps = train.integer("warmup_steps", 0, 0);
  else if (warmup < 1.0)
    config.warmup_ratio = warmup;
  else
    train.reject("warmup_steps", "expected a whole number of steps, or a share of them below 1");
}

void read_length(Section& train, TrainConfig& config, std::vector<std::string>& notes) {
  if (train.has("max_steps")) config.max_steps = train.positive("max_steps");
  config.num_train_epochs = train.number("num_train_epochs", config.num_train_epochs, kPositive);
  if (config.max_steps && train.has("num_train_epochs"))
    notes.push_back(train.place("num_train_epochs") + ": has no effect beside max_steps");
  const bool known = config.max_steps && config.warmup_steps && !train.failed("max_steps") &&
                     !train.failed("warmup_steps");
  if (known && *config.warmup_steps >= *config.max_steps)
    train.reject("warmup_steps",
                 "expected fewer steps than max_steps (" + std::to_string(*config.max_steps) + ')');
}

void read_schedule(Section& train, TrainConfig& config, std::vector<std::string>& notes) {
  train.redirect("lr", "learning_rate");
  train.redirect("lr_scheduler", "lr_scheduler_type");
  config.learning_rate = train.number("learning_rate", config.learning_rate, kPositive);
  config.lr_scheduler_type =
      read_word(train, "lr_scheduler_type", kSchedules, config.lr_scheduler_type);
  read_warmup(train, config);
  config.decay_ratio = train.number("decay_ratio", config.decay_ratio, kShare);
  config.min_lr_ratio = train.number("min_lr_ratio", config.min_lr_ratio, kShare);

  const auto type = config.lr_scheduler_type;
  if (type == Schedule::Wsd && config.warmup_ratio + config.decay_ratio > 1.0)
    train.report(train.has("decay_ratio") ? "decay_ratio" : "warmup_ratio",
                 "expected warm-up and decay within all steps, found shares of " +
                     configs::number_text(config.warmup_ratio) + " and " +
                     configs::number_text(config.decay_ratio));
  if (type != Schedule::Wsd && train.has("decay_ratio"))
    notes.push_back(train.place("decay_ratio") + ": has no effect without lr_scheduler_type wsd");
  if (type == Schedule::Constant && train.has("min_lr_ratio"))
    notes.push_back(train.place("min_lr_ratio") +
                    ": has no effect with lr_scheduler_type constant");
}

void read_batches(Section& train, TrainConfig& config) {
  train.alias("micro_batch_size", "per_device_train_batch_size");
  train.redirect("batch_size", "per_device_train_batch_size");
  if (train.has("per_device_eval_batch_size"))
    train.reject("per_device_eval_batch_size",
                 "leave it out: evaluation is cut by tokens, whatever the number of rows");
  config.per_device_train_batch_size =
      train.integer("per_device_train_batch_size", config.per_device_train_batch_size, 1, kMaxRows);
  config.gradient_accumulation_steps =
      train.integer("gradient_accumulation_steps", config.gradient_accumulation_steps, 1, kMaxRows);
}

}  // namespace

ModelConfig read_model(Section section, const PathBase& base) {
  for (const auto* word : {"path", "name", "model_name_or_path", "base_model"})
    section.redirect(word, "name_or_path");
  section.redirect("torch_dtype", "dtype");
  ModelConfig config;
  config.name_or_path = read_path(section, "name_or_path", base, model_problem);
  config.dtype = section.choice("dtype", {"bfloat16", "float32", "auto"}, config.dtype);
  config.compute_dtype =
      section.choice("compute_dtype", {"auto", "float32", "bfloat16"}, config.compute_dtype);
  config.device = section.choice("device", {"auto", "cpu", "cuda"}, config.device);
  config.compute_dtype_place = section.place("compute_dtype");
  config.device_place = section.place("device");
  if (config.dtype == "float32" && config.compute_dtype == "bfloat16")
    section.report("compute_dtype", "expected auto or float32 where dtype is float32");
  section.finish();
  return config;
}

DataConfig read_data(Section section, const PathBase& base, bool of_prompts) {
  constexpr std::int64_t kMaxLength = 1 << 24;
  section.alias("sequence_len", "max_length");
  section.alias("cutoff_len", "max_length");
  section.redirect("max_seq_length", "max_length");
  section.redirect("sample_packing", "packing");
  section.redirect("excess_length_strategy", "over_length");
  section.redirect("truncation_mode", "over_length");
  section.redirect("train_on_inputs", "assistant_only_loss");
  section.redirect("train_on_prompt", "completion_only_loss");
  DataConfig config;
  config.train = read_files(section, "train", base, /*required=*/true, of_prompts);
  config.eval = read_files(section, "eval", base, /*required=*/false, of_prompts);
  // One token has no next one to learn.
  config.max_length = section.integer("max_length", config.max_length, 2, kMaxLength);
  config.packing = section.boolean("packing", config.packing);
  config.assistant_only_loss = section.boolean("assistant_only_loss", config.assistant_only_loss);
  config.completion_only_loss =
      section.boolean("completion_only_loss", config.completion_only_loss);
  config.over_length = read_word(section, "over_length", kOverLengths, config.over_length);
  config.shuffle = section.boolean("shuffle", config.shuffle);
  section.finish();
  return config;
}

TrainConfig read_train(Section section, std::vector<std::string>& notes) {
  constexpr std::int64_t kMaxThreads = 4096;
  section.alias("num_epochs", "num_train_epochs");
  section.redirect("epochs", "num_train_epochs");
  TrainConfig config;
  read_schedule(section, config, notes);
  read_length(section, config, notes);
  read_batches(section, config);
  config.max_grad_norm = section.number("max_grad_norm", config.max_grad_norm, kNotNegative);
  config.weight_decay = section.number("weight_decay", config.weight_decay, kNotNegative);
  config.adam_beta1 = section.number("adam_beta1", config.adam_beta1, kBelowOne);
  config.adam_beta2 = section.number("adam_beta2", config.adam_beta2, kBelowOne);
  config.adam_epsilon = section.number("adam_epsilon", config.adam_epsilon, kPositive);
  config.max_loss = section.number("max_loss", config.max_loss, kNotNegative);
  config.max_loss_patience = section.positive("max_loss_patience", config.max_loss_patience);
  const auto seed = section.integer("seed", static_cast<std::int64_t>(config.seed), 0, kMaxInteger);
  config.seed = static_cast<std::uint64_t>(seed);
  config.threads = section.integer("threads", config.threads, 0, kMaxThreads);
  config.threads_place = section.place("threads");
  section.finish();
  return config;
}

RouterTraining read_router(Section section, bool grpo) {
  constexpr double kAuxLossCoef = 1e-3;  // of Mixtral's and Qwen's configurations
  section.redirect("output_router_logits", "router_aux_loss_coef");
  section.redirect("aux_loss_alpha", "router_seq_aux_loss_coef");
  section.redirect("moe_aux_loss_coeff", "router_aux_loss_coef");
  section.redirect("moe_z_loss_coeff", "router_z_loss_coef");
  section.redirect("moe_router_bias_update_rate", "router_bias_update_rate");
  section.redirect("capacity_factor", "expert_capacity_factor");
  section.redirect("moe_expert_capacity_factor", "expert_capacity_factor");
  section.redirect("moe_token_drop_policy", "token_drop_policy");
  RouterTraining config;
  config.train_router = section.boolean("train_router", config.train_router);
  const auto number = [&](const char* key, double fallback) {
    const auto value = section.number(key, fallback, kNotNegative);
    if (value > 0.0 && !config.train_router && !section.failed(key))
      section.report(key, "needs train_router: true: a frozen router is not balanced");
    return value;
  };
  config.router_aux_loss_coef =
      number("router_aux_loss_coef", config.train_router ? kAuxLossCoef : 0.0);
  config.router_aux_loss_scope =
      read_word(section, "router_aux_loss_scope", kBalanceScopes, config.router_aux_loss_scope);
  config.router_seq_aux_loss_coef = number("router_seq_aux_loss_coef", 0.0);
  config.router_z_loss_coef = number("router_z_loss_coef", 0.0);
  config.router_bias_update_rate = number("router_bias_update_rate", 0.0);
  config.bias_place = section.place("router_bias_update_rate");
  config.capacity.factor = section.number("expert_capacity_factor", 0.0, kNotNegative);
  config.capacity.drop = read_word(section, "token_drop_policy", kTokenDrops, config.capacity.drop);
  config.capacity_place = section.place("expert_capacity_factor");
  if (section.has("token_drop_policy") && config.capacity.factor == 0.0)
    section.report("token_drop_policy",
                   "needs expert_capacity_factor: without it nothing is dropped");
  if (grpo && config.capacity.factor > 0.0 && !section.failed("expert_capacity_factor"))
    section.report("expert_capacity_factor",
                   "expected 0 under task: grpo, whose updates compute what sampling computed");
  if (grpo && config.train_router)
    section.report("train_router", "expected false under task: grpo, which trains factors alone");
  section.finish();
  return config;
}

ParallelConfig read_parallel(Section section) {
  constexpr std::int64_t kMaxRanks = 1 << 20;
  section.redirect("tp", "tensor_parallel_size");
  section.redirect("ep", "expert_parallel_size");
  section.redirect("pp", "pipeline_parallel_size");
  section.redirect("data_parallel_shard_size", "dp_shard_size");
  for (const auto* word : {"dp", "data_parallel_size", "dp_replicate_size"}) {
    if (section.has(word))
      section.reject(word, "leave it out: the ranks that the other sizes leave are data parallel");
  }
  ParallelConfig config;
  const auto size = [&](const char* key) { return section.integer(key, 1, 1, kMaxRanks); };
  config.place = section.place();
  config.tensor_parallel_size = size("tensor_parallel_size");
  config.expert_parallel_size = size("expert_parallel_size");
  config.pipeline_parallel_size = size("pipeline_parallel_size");
  config.dp_shard_size = size("dp_shard_size");
  section.finish();
  return config;
}

OutputConfig read_output(Section section, const PathBase& base) {
  section.redirect("output_dir", "dir");
  section.redirect("path", "dir");
  OutputConfig config;
  config.dir = read_path(section, "dir", base, output_problem);
  config.save_steps = section.integer("save_steps", config.save_steps, 0);
  config.save_total_limit = section.positive("save_total_limit", config.save_total_limit);
  config.logging_steps = section.positive("logging_steps", config.logging_steps);
  config.eval_steps = section.integer("eval_steps", config.eval_steps, 0);
  const auto reports = section.choices("report_to", {"jsonl", "tensorboard", "html", "none"},
                                       {"jsonl", "tensorboard"});
  const auto reported = [&](const char* name) {
    return std::ranges::find(reports, name) != reports.end();
  };
  config.jsonl = reported("jsonl");
  config.tensorboard = reported("tensorboard");
  config.html = reported("html");
  if (reported("none") && reports.size() > 1 && !section.failed("report_to"))
    section.report("report_to", "expected none alone, or without it");
  if (config.html && !config.jsonl && !section.failed("report_to"))
    section.report("report_to", "html needs jsonl, from which it is made");
  config.log_on_each_rank = section.boolean("log_on_each_rank", config.log_on_each_rank);
  config.resume = section.boolean("resume_from_checkpoint", config.resume);
  section.finish();
  return config;
}

}  // namespace tailor::trainer
