#include "trainer/checkpoint/checkpoint.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"
#include "models/files/file_error.hpp"
#include "trainer/checkpoint/checksum.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/checkpoint/run_directory.hpp"
#include "trainer/checkpoint/state_file.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;

/// A folder of its own that goes with the test.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "tailor-checkpoint-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

/// An adapter on a tiny model without weights, and a state that fits it.
struct Run {
  Run() {
    const auto file = fs::path(TAILOR_GOLDEN) / "tiny_llama" / "config.json";
    std::ifstream in(file);
    std::ostringstream text;
    text << in.rdbuf();
    model = models::make_causal_lm(text.str(), file.string());
    peft::LoraConfig config;
    config.r = 4;
    adapter = std::make_unique<peft::LoraAdapter>(*model, config, /*seed=*/1);
  }
  NamedTensors parameters() const {
    NamedTensors out;
    for (const auto& trainable : adapter->trainables())
      out.emplace_back(trainable.name, trainable.value);
    return out;
  }
  peft::AdapterFiles files() const { return peft::adapter_files(*adapter, "base"); }
  TrainState state(std::int64_t step) const {
    TrainState out{.step = step,
                   .evaluation_due = step % 2 == 1,
                   .data = {.epoch = 1, .row = step},
                   .num_tokens = 100 * step,
                   .guards = {.above_max_loss = 1, .moving_steps = 10},
                   .num_updates = step};
    out.fingerprints = {{"model", "0123"}};
    for (const auto& [name, parameter] : parameters()) {
      out.first_moment.emplace_back(name, at::randn(parameter.sizes()));
      out.second_moment.emplace_back(name, at::randn(parameter.sizes()));
    }
    return out;
  }
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;
};

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(directory))
    out.push_back(entry.path().filename().string());
  std::ranges::sort(out);
  return out;
}

void flip_byte(const fs::path& file, std::int64_t from_end) {
  std::fstream io(file, std::ios::in | std::ios::out | std::ios::binary);
  io.seekg(-from_end, std::ios::end);
  const auto byte = static_cast<char>(io.get() ^ 1);
  io.seekp(-from_end, std::ios::end);
  io.put(byte);
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("what is saved is what is read") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 3);
  const auto state = run.state(200);
  const auto path = checkpoints.save(state, run.files());
  CHECK(path.filename() == "step-000200");
  CHECK(names_in(path) == Names{"adapter_config.json", "adapter_model.safetensors",
                                "optimizer.safetensors", "trainer_state.json"});
  Names warnings;
  const auto saved = checkpoints.newest(warnings);
  REQUIRE(saved);
  CHECK(warnings.empty());
  CHECK(saved->state.step == 200);
  CHECK(saved->state.data.epoch == 1);
  CHECK(saved->state.data.row == 200);
  CHECK(saved->state.num_tokens == 20'000);
  CHECK(saved->state.guards == state.guards);
  CHECK(saved->state.num_updates == 200);
  CHECK(saved->state.fingerprints == state.fingerprints);
  REQUIRE(saved->state.second_moment.size() == state.second_moment.size());
  for (std::size_t i = 0; i < state.first_moment.size(); ++i) {
    CHECK(saved->state.first_moment[i].first == state.first_moment[i].first);
    CHECK(at::equal(saved->state.first_moment[i].second, state.first_moment[i].second));
    CHECK(at::equal(saved->state.second_moment[i].second, state.second_moment[i].second));
  }
  const auto parameters = run.parameters();
  CHECK(saved->adapter.factors.size() == parameters.size());
  CHECK(at::equal(saved->adapter.factors.at("base_model.model." + parameters[0].first),
                  parameters[0].second));
}

TEST_CASE("a state from before a guard was counted is read, with nothing held against the run") {
  const Run run;
  const Folder folder;
  auto state = run.state(5);
  state.guards.above_kl_limit = 2;
  auto saved = nlohmann::ordered_json::parse(state_json(state, folder.path));
  saved["guards"].erase("above_kl_limit");
  saved["guards"].erase("batches_rewarded");
  saved.erase("checksum");
  Checksum sum;
  sum.add(saved.dump());
  saved["checksum"] = sum.hex();
  std::ofstream(folder.path / "trainer_state.json") << saved.dump(2);
  const auto found = read_state(folder.path / "trainer_state.json");
  CHECK(found.guards.above_kl_limit == 0);
  CHECK(found.guards.batches_rewarded == 1);
  CHECK(found.guards.moving_steps == state.guards.moving_steps);
}

TEST_CASE("only the newest checkpoints are kept, ordered by number") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 2);
  for (const std::int64_t step : {999'999, 1'000'000, 1'000'001})
    checkpoints.save(run.state(step), run.files());
  CHECK(names_in(folder.path) == Names{"step-1000000", "step-1000001"});
  const CheckpointFolder all(folder.path, std::nullopt);
  all.save(run.state(1'000'002), run.files());
  CHECK(all.list().size() == 3);
}

TEST_CASE("a limit never removes the checkpoint just written, but later ones that are damaged") {
  const Run run;
  const Folder folder;
  const CheckpointFolder all(folder.path, std::nullopt);
  for (const std::int64_t step : {100, 150}) all.save(run.state(step), run.files());
  fs::remove(all.save(run.state(200), run.files()) / "trainer_state.json");
  const std::int64_t limit = GENERATE(1, 2);
  const CheckpointFolder limited(folder.path, limit);
  Names warnings;
  REQUIRE(limited.newest(warnings)->state.step == 150);
  limited.save(run.state(160), run.files());
  CHECK(names_in(folder.path) ==
        (limit == 1 ? Names{"step-000160"} : Names{"step-000150", "step-000160"}));
  warnings.clear();
  CHECK(limited.newest(warnings)->state.step == 160);
  CHECK(warnings.empty());
}

TEST_CASE("a checkpoint that cannot be removed does not make a save fail") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 1);
  const auto old = checkpoints.save(run.state(10), run.files());
  fs::permissions(folder.path, fs::perms::all);
  fs::permissions(old, fs::perms::owner_read | fs::perms::owner_exec);
  // In a child, since a superuser may remove everything and has to become somebody else.
  const pid_t child = fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(4);
    try {
      checkpoints.save(run.state(20), run.files());
      _exit(fs::exists(old) ? 0 : 1);
    } catch (...) {
      _exit(2);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  fs::permissions(old, fs::perms::owner_all);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(names_in(folder.path) == Names{"step-000010", "step-000020"});
}

TEST_CASE("what a killed process left half written is removed") {
  const Run run;
  const Folder folder;
  fs::create_directories(folder.path / ".tmp-step-000010");
  std::ofstream(folder.path / ".tmp-step-000010" / "optimizer.safetensors") << "half";
  const CheckpointFolder checkpoints(folder.path, 2);
  CHECK(names_in(folder.path).empty());
  Names warnings;
  CHECK_FALSE(checkpoints.newest(warnings));
}

TEST_CASE("a damaged checkpoint is named and the one before it is used") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 3);
  checkpoints.save(run.state(10), run.files());
  const auto last = checkpoints.save(run.state(20), run.files());
  const std::string file = GENERATE("adapter_model.safetensors", "adapter_config.json",
                                    "optimizer.safetensors", "trainer_state.json");
  SECTION("one bit is flipped") { flip_byte(last / file, 40); }
  SECTION("cut off") { fs::resize_file(last / file, fs::file_size(last / file) - 7); }
  SECTION("empty") { fs::resize_file(last / file, 0); }
  SECTION("missing") { fs::remove(last / file); }
  Names warnings;
  const auto found = checkpoints.newest(warnings);
  REQUIRE(found);
  CHECK(found->state.step == 10);
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Catch::Contains("step-000020") && Catch::Contains(file));
}

TEST_CASE("a disk that fails is no damaged checkpoint") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 3);
  checkpoints.save(run.state(10), run.files());
  const auto file = checkpoints.save(run.state(20), run.files()) / "trainer_state.json";
  // It opens and cannot be read, as a file on a failing disk.
  fs::remove(file);
  fs::create_directory(file);
  Names warnings;
  CHECK_THROWS_AS(checkpoints.newest(warnings), std::system_error);
  CHECK(warnings.empty());
}

TEST_CASE("where no checkpoint is whole nothing is begun anew in silence") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 3);
  fs::remove(checkpoints.save(run.state(10), run.files()) / "trainer_state.json");
  Names warnings;
  CHECK_THROWS_AS(checkpoints.newest(warnings), models::FileError);
}

TEST_CASE("a damaged checkpoint is replaced when its step is saved again") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 3);
  fs::remove(checkpoints.save(run.state(10), run.files()) / "trainer_state.json");
  checkpoints.save(run.state(10), run.files());
  Names warnings;
  CHECK(checkpoints.newest(warnings)->state.step == 10);
  CHECK(warnings.empty());
}

TEST_CASE("a write that fails leaves the checkpoints from before and nothing else") {
  const Run run;
  const Folder folder;
  const CheckpointFolder checkpoints(folder.path, 3);
  checkpoints.save(run.state(10), run.files());
  // In a child, since a limit on the size of files holds for the whole process. Like a full disk it
  // makes a write fail in the middle.
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 4096, .rlim_max = 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      checkpoints.save(run.state(20), run.files());
      _exit(1);
    } catch (const std::system_error& error) {
      _exit(std::string(error.what()).find("step-000020") != std::string::npos ? 0 : 2);
    } catch (...) {
      _exit(3);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(names_in(folder.path) == Names{"step-000010"});
  Names warnings;
  CHECK(checkpoints.newest(warnings)->state.step == 10);
}

TEST_CASE("a second process is kept out of a run directory") {
  const Folder folder;
  const auto locked_out = [&] {
    const pid_t child = fork();
    if (child == 0) {
      try {
        const RunDirectory second(folder.path / "run");
        _exit(0);
      } catch (const configs::ConfigError&) {
        _exit(2);
      }
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status) == 2;
  };
  {
    const RunDirectory first(folder.path / "run");
    CHECK_FALSE(first.used());
    CHECK(locked_out());
  }
  CHECK_FALSE(locked_out());
}

TEST_CASE("a run directory that was made and stayed empty is gone again") {
  const Folder folder;
  const auto path = folder.path / "runs" / "first";
  { const RunDirectory directory(path); }
  CHECK_FALSE(fs::exists(folder.path / "runs"));
  {
    const RunDirectory directory(path);
    std::ofstream(directory.config()) << "task: sft\n";
  }
  CHECK(fs::exists(path / "config.yaml"));
  fs::create_directories(folder.path / "others" / "own");
  { const RunDirectory directory(folder.path / "others" / "own"); }
  CHECK(fs::exists(folder.path / "others" / "own"));  // the user's
  { const RunDirectory directory(folder.path / "others" / "new"); }
  CHECK(names_in(folder.path / "others") == Names{"own"});
}

TEST_CASE("a resume names what would make it another run and lets the rest pass") {
  RunConfig begun;
  begun.task = "sft";
  begun.peft.emplace();
  auto now = begun;
  CHECK(compare_configs(begun, now).refused.empty());

  now.peft->r = 8;
  now.train.seed = 43;
  now.data.max_length = 512;
  now.train.max_steps = 500;
  now.output.save_steps = 7;
  const auto differences = compare_configs(begun, now);
  CHECK(differences.refused == Names{"peft.r: begun with 16, now 8",
                                     "data.max_length: begun with 1024, now 512",
                                     "train.seed: begun with 42, now 43"});
  CHECK(
      differences.noted ==
      Names{
          "train.max_steps: begun with none, now 500",
          "train.lr_scheduler_type: cosine is laid over the new number of steps: the rate may jump",
          "output.save_steps: begun with 50, now 7"});
  begun.train.lr_scheduler_type = now.train.lr_scheduler_type = Schedule::Constant;
  CHECK(compare_configs(begun, now).noted == Names{"train.max_steps: begun with none, now 500",
                                                   "output.save_steps: begun with 50, now 7"});
}

TEST_CASE("a resume of GRPO keeps loss, sampling and rewards") {
  RunConfig begun;
  begun.task = "grpo";
  begun.rewards.push_back({.name = "numeric_answer"});
  auto now = begun;
  now.grpo.rollout_batch_size = 64;
  CHECK(compare_configs(begun, now).refused.empty());
  CHECK(compare_configs(begun, now).noted ==
        Names{"grpo.rollout_batch_size: begun with 32, now 64"});
  now.grpo.temperature = 0.5;
  now.grpo.epsilon_high = 0.28;
  now.rewards[0].weight = 2.0;
  const auto refused = compare_configs(begun, now).refused;
  REQUIRE(refused.size() == 3);
  CHECK(refused[0] == "grpo.epsilon_high: begun with none, now 0.28");
  CHECK(refused[1] == "grpo.temperature: begun with 1, now 0.5");
  CHECK(refused[2].starts_with("rewards: begun with "));
}

TEST_CASE("a resume lets the model and the adapter to begin with lie elsewhere") {
  RunConfig begun;
  begun.model.name_or_path = "/old/model";
  begun.adapter_path = "/old/adapter";
  auto now = begun;
  now.model.name_or_path = "/new/model";
  now.adapter_path.clear();
  const auto differences = compare_configs(begun, now);
  CHECK(differences.refused.empty());
  CHECK(differences.noted == Names{"model.name_or_path: begun with /old/model, now /new/model",
                                   "peft.adapter_path: begun with /old/adapter, now none"});
}

TEST_CASE("rows a step may be spread otherwise by a resume: a fingerprint holds their number") {
  RunConfig begun;
  begun.train.per_device_train_batch_size = 8;
  auto now = begun;
  now.train.per_device_train_batch_size = 2;
  now.train.gradient_accumulation_steps = 4;
  now.parallel.tensor_parallel_size = 2;
  CHECK(compare_configs(begun, now).refused.empty());
  CHECK(compare_configs(begun, now).noted.size() == 3);
}

TEST_CASE("a fingerprint that is missing or another is named") {
  CHECK(compare_fingerprints({{"model", "1"}, {"data", "2"}}, {{"model", "1"}, {"data", "2"}})
            .empty());
  CHECK(compare_fingerprints({{"model", "1"}}, {{"model", "3"}, {"data", "2"}}) ==
        Names{"data", "model"});
}

TEST_CASE("of a fingerprint that is another both values are told where they are words") {
  const std::map<std::string, std::string> begun{{"model", "0f12"}, {"precision", "float32"}};
  const std::map<std::string, std::string> now{
      {"model", "0f13"}, {"precision", "bfloat16"}, {"more", "words"}};
  CHECK(describe_change("precision", begun, now) == "precision: begun with float32, now bfloat16");
  CHECK(describe_change("model", begun, now) == "model: not the same any more");
  CHECK(describe_change("more", begun, now) == "more: not the same any more");
}

}  // namespace tailor::trainer
