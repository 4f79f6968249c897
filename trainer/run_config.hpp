#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "models/expert_capacity.hpp"
#include "peft/lora_config.hpp"
#include "trainer/grpo/grpo_config.hpp"
#include "trainer/rewards/reward_config.hpp"

namespace tailor::trainer {

struct ModelConfig {
  std::filesystem::path name_or_path;  // HF directory or GGUF file, resolved against the job file
  std::string dtype = "bfloat16";      // stored: bfloat16 | float32 | auto
  std::string compute_dtype = "auto";  // multiplied: auto | float32 | bfloat16
  std::string device = "auto";         // auto | cpu | cuda
  /// Who said so, for errors that need the machine: "job.yaml:3:3: model.device", or an option.
  std::string compute_dtype_place = "model.compute_dtype", device_place = "model.device";
};

enum class DataFormat { Messages, PromptCompletion, Text, Tokens };

struct DataFile {
  std::filesystem::path path;
  DataFormat format;
  std::string place;  // "job.yaml:12:13: data.train[0]", for errors about the file
};

enum class OverLength { Truncate, Drop, Raise };  // a row longer than max_length

struct DataConfig {
  std::vector<DataFile> train, eval;
  std::int64_t max_length = 1024;
  bool packing = true;
  bool assistant_only_loss = true;   // messages: supervise assistant turns only
  bool completion_only_loss = true;  // prompt_completion: supervise the completion only
  OverLength over_length = OverLength::Truncate;
  bool shuffle = true;
};

enum class Schedule { Constant, Linear, Cosine, Wsd };  // lr_scheduler_type

struct TrainConfig {
  double learning_rate = 2e-4;
  Schedule lr_scheduler_type = Schedule::Cosine;
  std::optional<std::int64_t> warmup_steps;
  double warmup_ratio = 0.0;  // used where warmup_steps is absent
  double decay_ratio = 0.1;   // wsd: share of the steps that decays
  double min_lr_ratio = 0.0;  // linear, cosine, wsd end at this share of learning_rate
  std::optional<std::int64_t> max_steps;
  double num_train_epochs = 3.0;  // where max_steps is absent
  std::int64_t per_device_train_batch_size = 8;
  std::int64_t gradient_accumulation_steps = 1;
  double max_grad_norm = 1.0;  // 0: off
  double weight_decay = 0.0, adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_loss = 0.0;               // divergence guard: loss above it ...
  std::int64_t max_loss_patience = 3;  // ... for so many steps stops the job; max_loss 0: off
  std::uint64_t seed = 42;
  std::int64_t threads = 0;  // 0: one a core
  std::string threads_place = "train.threads";
};

/// Which tokens' choices are the share f of an expert in the balancing loss.
enum class BalanceScope { GlobalBatch, MicroBatch };  // router_aux_loss_scope

/// Routers of a sparse model: trained whole, beside the factors, and kept balanced; and what of
/// their choice is computed. What the coefficients multiply: trainer/sft/router_balance.hpp.
struct RouterTraining {
  bool train_router = false;
  double router_aux_loss_coef = 0.0;  // 0.001 where routers are trained and the job does not say
  BalanceScope router_aux_loss_scope = BalanceScope::GlobalBatch;
  double router_seq_aux_loss_coef = 0.0;
  double router_z_loss_coef = 0.0;
  double router_bias_update_rate = 0.0;
  models::ExpertCapacity capacity;  // expert_capacity_factor, token_drop_policy; of frozen ones too
  std::string bias_place;           // "job.yaml:12:3: router.router_bias_update_rate"
  std::string capacity_place;       // of expert_capacity_factor

  bool is_default() const { return !train_router && capacity.factor == 0.0; }
};

struct OutputConfig {
  std::filesystem::path dir;     // resolved against the job file
  std::int64_t save_steps = 50;  // 0: only at the end
  std::optional<std::int64_t> save_total_limit = 3;
  std::int64_t logging_steps = 1;
  std::int64_t eval_steps = 50;                         // 0: only at the end
  bool jsonl = true, tensorboard = true, html = false;  // report_to
  bool log_on_each_rank = false;                        // into dir/logs/rank-N.log
  bool resume = true;  // resume_from_checkpoint: latest, or false to refuse a used dir
};

/// How a job is spread over its ranks; what is left of the world is data parallel.
struct ParallelConfig {
  std::int64_t tensor_parallel_size = 1, expert_parallel_size = 1, pipeline_parallel_size = 1;
  std::int64_t dp_shard_size = 1;  // ranks of different data that hold a part of the base each
  std::string place;               // "job.yaml:31:3: parallel", for errors about ranks
};

/// A whole job file, checked. Paths are absolute.
struct RunConfig {
  std::string task;  // sft | grpo
  ModelConfig model;
  std::optional<peft::LoraConfig> peft;  // method lora
  std::filesystem::path adapter_path;    // start from this adapter; empty: from the initialiser
  RouterTraining router;
  DataConfig data;
  TrainConfig train;
  GrpoConfig grpo;                    // task grpo
  std::vector<RewardConfig> rewards;  // task grpo: at least one
  ParallelConfig parallel;
  OutputConfig output;
  /// "job.yaml:9:20: peft.target_modules", for a target without a match.
  std::string target_modules_place;
  std::string grpo_place;          // "job.yaml:20:1: grpo", for errors about ranks
  std::vector<std::string> notes;  // accepted aliases and the like, one line each, for the log
};

/// Whether what a job's paths name is looked for. AsWritten is for the record of an earlier run,
/// whose model and data may have moved since.
enum class Paths { Checked, AsWritten };

/// Reads and checks a job file with the overrides of --set. Throws configs::ConfigError with every
/// problem at once; a file that cannot be read is one too.
RunConfig read_run_config(const std::filesystem::path& job,
                          const std::vector<std::string>& overrides, Paths paths = Paths::Checked);

/// The same from the text of the file, which every rank gets from the first.
RunConfig parse_run_config(const std::string& text, const std::filesystem::path& job,
                           const std::vector<std::string>& overrides, Paths paths = Paths::Checked);

/// The resolved configuration, defaults included, as YAML that read_run_config() accepts.
std::string to_yaml(const RunConfig& config);
std::string to_yaml(const GrpoConfig& config);  // its section

/// JSON Schema (draft 2020-12) of the job file, made from the same reader.
std::string job_schema();

}  // namespace tailor::trainer
