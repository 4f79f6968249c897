#include <ATen/ops/full.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "models/files/durable_file.hpp"
#include "peft/target_modules.hpp"
#include "trainer/checkpoint/checkpoint.hpp"
#include "trainer/checkpoint/checksum.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/checkpoint/run_directory.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/errors.hpp"
#include "trainer/cli/fingerprints.hpp"
#include "trainer/cli/job_summary.hpp"
#include "trainer/cli/job_task.hpp"
#include "trainer/cli/ranks.hpp"
#include "trainer/metrics/curve.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/metrics/memory.hpp"
#include "trainer/parallel/placement.hpp"
#include "trainer/parallel/spread_model.hpp"
#include "trainer/report/report.hpp"
#include "trainer/sft/interrupt.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer::cli {
namespace {

namespace fs = std::filesystem;
using configs::ConfigError;

constexpr const char* kAdapterFile = "adapter_model.safetensors";

struct TrainOptions {
  std::string job;
  std::vector<std::string> overrides;
  std::int64_t threads = 0;
  bool json = false, quiet = false;
};

/// Refuses to go on with what would not be the run that was begun; tells what else differs.
void check_resumable(const RunDirectory& directory, const RunConfig& config,
                     const Checkpoint& checkpoint, const std::map<std::string, std::string>& now) {
  const auto where = directory.path().string();
  if (!fs::exists(directory.config()))
    throw ConfigError("output.dir: " + where +
                      " has checkpoints but no config.yaml that says how they were made; name "
                      "another directory");
  auto differences =
      compare_configs(read_run_config(directory.config(), {}, Paths::AsWritten), config);
  for (const auto& name : compare_fingerprints(checkpoint.state.fingerprints, now)) {
    const bool decisive =
        name == kModelFingerprint || name == kDataFingerprint || name == kStepFingerprint;
    (decisive ? differences.refused : differences.noted)
        .push_back(describe_change(name, checkpoint.state.fingerprints, now));
  }
  for (const auto& line : differences.noted) log_warn("resuming with a change: " + line);
  if (differences.refused.empty()) return;
  std::string text = "cannot resume " + where + ", which was begun otherwise:";
  for (const auto& line : differences.refused) text += "\n  " + line;
  throw ConfigError(text + "\nuse the old values, or another output.dir for a new run");
}

/// The final adapter is there and is that of the checkpoint, not of an earlier, shorter run.
bool is_finished(const RunDirectory& directory, const Checkpoint& checkpoint,
                 std::int64_t total_steps) {
  const auto file = directory.adapter() / kAdapterFile;
  return checkpoint.state.step >= total_steps && fs::exists(file) &&
         fs::exists(directory.adapter() / "adapter_config.json") &&
         file_checksum(file) == file_checksum(checkpoint.path / kAdapterFile);
}

/// Factors to begin with from peft.adapter_path. What the job says of the adapter must be what the
/// files say: nothing that the user wrote is changed in silence.
void start_from(const fs::path& path, const std::string& model_type, peft::LoraAdapter& adapter) {
  auto files = peft::read_adapter(path, model_type);
  if (peft::complete_routers(files, adapter))
    log_info(path.string() + " holds no routers: they begin as the model's");
  const auto place = [&](const std::string& key) {
    return peft::place_of_key(adapter.config(), "peft.target_modules", key);
  };
  for (const auto& module : adapter.modules()) {
    const auto found = files.factors.find(peft::factor_key(module.path, 'A'));
    if (found == files.factors.end()) continue;
    const auto rank = module.A.size(0), saved_rank = found->second.size(0);
    if (rank != saved_rank)
      throw ConfigError(place(adapter.config().rank_key(module.path)) + ": " + module.path +
                        " has rank " + std::to_string(rank) + " in the job and " +
                        std::to_string(saved_rank) + " in " + path.string());
    const double saved = files.config.scale_of(module.path);
    if (saved != module.scale)
      throw ConfigError(place("lora_alpha") + ": " + module.path + " is scaled by " +
                        std::to_string(module.scale) + " in the job (lora_alpha over r) and by " +
                        std::to_string(saved) + " in " + path.string());
  }
  peft::load_factors(files, adapter);
}

/// Loss of the last step that metrics.jsonl holds.
std::optional<double> last_loss(const fs::path& metrics) {
  std::ifstream in(metrics);
  std::optional<double> loss;
  for (std::string line; std::getline(in, line);) {
    const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (row.is_object() && row.contains("loss") && row["loss"].is_number())
      loss = row["loss"].get<double>();
  }
  return loss;
}

nlohmann::ordered_json result_json(const RunDirectory& directory, std::int64_t steps,
                                   std::optional<double> loss, const fs::path& resumed_from) {
  const auto or_null = [](const auto& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  const bool has_adapter = fs::exists(directory.adapter());
  nlohmann::ordered_json out = {{"steps", steps},
                                {"loss", or_null(loss)},
                                {"tokens_per_second", nullptr},
                                {"peak_rss_bytes", peak_rss_bytes()}};
  out["adapter"] =
      has_adapter ? nlohmann::ordered_json(directory.adapter().string()) : nlohmann::ordered_json();
  out["output_dir"] = directory.path().string();
  out["resumed_from"] = resumed_from.empty() ? nlohmann::ordered_json()
                                             : nlohmann::ordered_json(resumed_from.string());
  return out;
}

/// "dp 2 x ep 1 x tp 1", or one rank.
std::string layout_text(const distributed::MeshSizes& sizes) {
  return sizes.world() == 1 ? "one rank" : distributed::describe(sizes);
}

/// What every rank must be told alike. A rank may have places of its own where the model and the
/// data lie (which are compared when they are open), other threads, and a bound at which it stops
/// the job.
std::string shared_overrides(const std::vector<std::string>& overrides) {
  constexpr std::array<const char*, 5> kOwn{
      "model.name_or_path=", "data.train=", "data.eval=", "train.threads=", "train.max_loss="};
  auto out = nlohmann::json::array();
  for (const auto& text : overrides)
    if (std::ranges::none_of(kOwn, [&](const char* own) { return text.starts_with(own); }))
      out.push_back(text);
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class TrainCommand {
 public:
  TrainCommand(const TrainOptions& options, Ranks& ranks, const std::string& job_text)
      : options_(options), ranks_(ranks) {
    const auto mine = shared_overrides(options.overrides), first = ranks_.from_first(mine);
    ranks_.together([&] {
      if (mine != first)
        throw ConfigError("--set: expected what rank 0 was given, " + first + ", found " + mine +
                          "; every rank must be started with the same options");
      config_ = parse_run_config(job_text, options.job, options.overrides);
    });
    device_ = ranks_.device(config_.model);
    mesh_ = ranks_.mesh(config_.parallel, device_);
    ranks_.by_first([&] { take_directory(); });
    if (config_.output.log_on_each_rank) ranks_.log_to(config_.output.dir / "logs");
  }

  int operator()() {
    ranks_.together([&] {
      set_threads(config_.train.threads > 0 ? config_.train.threads : ranks_.cores(),
                  config_.train.threads_place);
      open();
    });
    compare_ranks();
    find_checkpoint();
    if (checkpoint_ && done_before()) return finished();
    ranks_.together([&] { load(); });
    if (ranks_.leads()) models::write_durable_file(directory_->config(), to_yaml(config_));
    const InterruptGuard guard(ranks_.leads());
    const auto result = run();
    if (!result.interrupted) write_final_adapter();
    write_page();
    if (ranks_.leads()) report(result);
    return result.interrupted ? kInterruptedExit : 0;
  }

 private:
  /// Rank 0 holds the run directory for all.
  void take_directory() {
    directory_.emplace(config_.output.dir);
    if (config_.output.resume || !directory_->used()) return;
    throw ConfigError("output.dir: " + directory_->path().string() +
                      " holds an earlier run and the job does not resume; name another directory");
  }

  /// Everything that can be wrong in job, model files, data and run directory, before a weight is
  /// read.
  void open() {
    for (const auto& note : config_.notes) log_info(note);
    if (ranks_.size() > 1)
      log_info("ranks: " + std::to_string(ranks_.size()) + ", " + layout_text(mesh_.sizes));
    precision_ = choose_precision(config_.model, device_);
    pretrained_ = models::open_pretrained(config_.model.name_or_path);
    {
      const auto shell = models::make_causal_lm(pretrained_.config_json, pretrained_.config_file);
      log_info("model: " + describe_model(*shell, pretrained_, precision_));
      warn_of_unused(*shell, pretrained_);
      module_paths_ = peft::module_paths_of(*shell);
      const auto adapter = seat_new_adapter(*shell, config_);
      check_router(config_, *shell, *adapter);
      log_info("adapter: " + describe_adapter(*adapter));
      for (const auto& warning : adapter_warnings(*adapter)) log_warn(warning);
      if (!config_.adapter_path.empty())
        start_from(config_.adapter_path, shell->shape().model_type, *adapter);
    }
    make_part();  // refuses what the ranks cannot share
    task_ = open_task(config_, pretrained_, mesh_.sizes.data(), /*scores=*/mesh_.tp->rank() == 0);
    for (const auto& line : task_->describe()) log_info(line);
    fingerprints_ = fingerprints(pretrained_, *task_, precision_, layout_text(mesh_.sizes));
  }

  /// All ranks have the same model and data: a copy on some machine may be an old one, and its rank
  /// would train on another without a word.
  void compare_ranks() {
    if (ranks_.size() == 1) return;
    const auto text = ranks_.from_first(nlohmann::json(fingerprints_).dump());
    const auto first = nlohmann::json::parse(text).get<std::map<std::string, std::string>>();
    ranks_.together([&] {
      for (const auto& name : compare_fingerprints(first, fingerprints_))
        throw ConfigError(name + ": expected " + first.at(name) + ", which rank 0 found, found " +
                          fingerprints_.at(name) + " (model.name_or_path is " +
                          config_.model.name_or_path.string() +
                          "); every rank must find the same model and data, and compute alike");
    });
  }

  /// The one to go on from, as rank 0 chooses it, on all.
  void find_checkpoint() {
    ranks_.by_first([&] {
      std::vector<std::string> warnings;
      checkpoint_ = CheckpointFolder::newest(config_.output.dir / "checkpoints", warnings);
      for (const auto& line : warnings) log_warn(line);
      if (checkpoint_)
        check_resumable(*directory_, config_, *checkpoint_, fingerprints_);
      else if (fs::exists(directory_->adapter() / kAdapterFile))
        throw ConfigError("output.dir: " + directory_->adapter().string() +
                          " is a finished run's, but there is no checkpoint that tells of which; "
                          "move it away to train anew, or name another directory");
    });
    resumed_from_ = ranks_.from_first(checkpoint_ ? checkpoint_->path.string() : "");
    ranks_.together([&] {
      if (!ranks_.leads() && !resumed_from_.empty()) checkpoint_ = read_checkpoint(resumed_from_);
    });
  }

  /// The model, without weights, as this rank holds it.
  std::unique_ptr<models::CausalLM> make_part(models::TakeParameter* take = nullptr) const {
    auto model = models::make_causal_lm(pretrained_.config_json, pretrained_.config_file);
    try {
      auto part = spread_model(*model, mesh_);
      if (take != nullptr) *take = std::move(part);
    } catch (const ConfigError& error) {
      throw ConfigError(config_.parallel.place + "." + error.what());
    }
    return model;
  }

  bool done_before() const {
    bool done = false;
    if (ranks_.leads()) done = is_finished(*directory_, *checkpoint_, task_->total_steps());
    auto flag = at::full({1}, done ? 1 : 0, at::kLong);
    ranks_.world().broadcast(flag, 0);
    return *flag.const_data_ptr<std::int64_t>() != 0;
  }

  void load() {
    log_info(task_->sample(/*max_characters=*/600));
    models::TakeParameter take;
    model_ = make_part(&take);
    load_weights_into(*model_, pretrained_, precision_, take);
    adapter_ = seat_new_adapter(*model_, config_, &module_paths_);
    if (checkpoint_) {
      scatter_adapter(checkpoint_->adapter, *adapter_);
      log_info("resuming behind step " + std::to_string(checkpoint_->state.step) + " of " +
               std::to_string(task_->total_steps()) + ", from " + checkpoint_->path.string());
    } else if (!config_.adapter_path.empty()) {
      auto files = peft::read_adapter(config_.adapter_path, model_->shape().model_type);
      peft::complete_routers(files, *adapter_);
      scatter_adapter(files, *adapter_);
      log_info("starting from " + config_.adapter_path.string());
    }
  }

  /// The task. A run that its guards stop has a page that shows why.
  TrainResult run() {
    const auto train = [&] {
      return task_->train({.config = config_,
                           .model = *model_,
                           .adapter = *adapter_,
                           .base_model = config_.model.name_or_path.string(),
                           .fingerprints = fingerprints_,
                           .checkpoint = std::exchange(checkpoint_, std::nullopt),
                           .world = ranks_.world(),
                           .mesh = mesh_,
                           .vocabulary = vocabulary_part(*model_, mesh_)});
    };
    // Caught, an error would lose the frames of its throw.
    if (!config_.output.html || stack_traces_wanted()) return train();
    try {
      return train();
    } catch (const NumericError&) {
      // The first rank that has told its error ends all: give the one that writes the page time.
      constexpr std::chrono::seconds kPageTime(3);
      if (!ranks_.leads()) std::this_thread::sleep_for(kPageTime);
      write_page();
      throw;
    }
  }

  /// report.html, where the job asks for it. A page that cannot be made costs no run.
  void write_page() const {
    if (!ranks_.leads() || !config_.output.html) return;
    try {
      const auto page = make_report(directory_->path());
      const auto file = directory_->path() / "report.html";
      models::write_durable_file(file, page.html);
      for (const auto& note : page.notes) log_warn(note);
      log_info("report: " + file.string());
    } catch (const std::exception& error) {
      log_warn("report.html: " + std::string(error.what()));
    }
  }

  void write_final_adapter() const {
    const auto whole =
        gather_adapter(*adapter_, config_.model.name_or_path.string(), ranks_.world(), mesh_);
    if (!ranks_.leads()) return;
    fs::create_directories(directory_->adapter());
    peft::write_adapter(whole, directory_->adapter());
    models::flush_directory(directory_->adapter());
  }

  int finished() const {
    if (!ranks_.leads()) return 0;
    const auto asked = task_->total_steps(), done = checkpoint_->state.step;
    log_info("finished: " +
             (done == asked
                  ? "all " + std::to_string(asked)
                  : std::to_string(done) + ", more than the job's " + std::to_string(asked) + ',') +
             " steps were done before; the adapter is in " + directory_->adapter().string());
    if (options_.json)
      std::cout << result_json(*directory_, checkpoint_->state.step,
                               last_loss(directory_->path() / "metrics.jsonl"), resumed_from_)
                << '\n';
    return 0;
  }

  void report(const TrainResult& result) const {
    const auto curve = draw_curve(result.curve, /*width=*/72, /*height=*/8);
    if (!curve.empty() && result.curve.size() > 1)
      log_info(result.curve_name + " by step:\n" + curve);
    if (result.interrupted) {
      log_warn("interrupted behind step " + std::to_string(result.steps) + " of " +
               std::to_string(result.total_steps) +
               (result.steps > 0 ? ", which is saved" : ", nothing is to be saved") +
               "; the same command goes on from there");
    } else {
      log_info("adapter: " + directory_->adapter().string());
    }
    if (!options_.json) return;
    auto out = result_json(*directory_, result.steps, result.loss, resumed_from_);
    out["tokens_per_second"] = result.tokens_per_second;
    out["total_steps"] = result.total_steps;
    out["interrupted"] = result.interrupted;
    for (const auto& fact : result.last) out[fact.name] = fact.number();
    std::cout << out << '\n';
  }

  const TrainOptions& options_;
  Ranks& ranks_;
  RunConfig config_;
  at::Device device_ = at::kCPU;
  distributed::Mesh mesh_;
  std::optional<RunDirectory> directory_;  // of rank 0
  Precision precision_;
  models::Pretrained pretrained_;
  peft::ModulePaths module_paths_;  // of the whole model
  std::unique_ptr<JobTask> task_;
  std::map<std::string, std::string> fingerprints_;
  std::optional<Checkpoint> checkpoint_;  // until the loop takes it over
  fs::path resumed_from_;                 // its folder; empty at a fresh start
  std::unique_ptr<models::CausalLM> model_;
  std::unique_ptr<peft::LoraAdapter> adapter_;
};

int train(TrainOptions options) {
  if (options.quiet) set_log_level(LogLevel::Warn);
  if (options.threads > 0)
    options.overrides.push_back("train.threads=" + std::to_string(options.threads));
  Ranks ranks;
  const int code = TrainCommand(options, ranks, ranks.shared_text(options.job))();
  ranks.finish();
  return code;
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("train", "Train an adapter, or go on with a run");
  auto options = std::make_shared<TrainOptions>();
  command->add_option("job", options->job, "the job file (YAML)")->required();
  command->add_option("--set", options->overrides, "override one value: --set peft.r=8")
      ->allow_extra_args(false);
  command->add_option("--threads", options->threads, "threads; as --set train.threads=N")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", options->json, "print the result as JSON on standard output");
  command->add_flag("--quiet", options->quiet, "warnings and errors only");
  command->callback([options, &action] { action = [options] { return train(*options); }; });
}

}  // namespace tailor::trainer::cli
