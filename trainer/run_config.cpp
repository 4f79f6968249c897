#include "trainer/run_config.hpp"

#include <fstream>
#include <iterator>
#include <system_error>

#include "trainer/rewards/reward_reading.hpp"
#include "trainer/run_config_paths.hpp"
#include "trainer/run_config_sections.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;
using configs::Document;
using configs::Section;

/// Ten times what full fine-tuning takes by GRPO, as usual for LoRA.
constexpr double kGrpoLearningRate = 3e-5;

/// Sections of a task that is not asked for are a mistake: they would be without effect.
void read_task(Section& root, const PathBase& base, RunConfig& config) {
  config.task = root.choice("task", {"sft", "grpo"}, "sft");
  const bool grpo = config.task == "grpo";
  for (const auto* key : {"grpo", "rewards"})
    if (!grpo && root.has(key))
      root.report(key, "needs task: grpo; remove the section, or set the task");
  auto section = root.section("grpo");
  config.grpo_place = section.place();
  config.grpo = read_grpo(section);
  if (grpo || root.has("rewards")) config.rewards = read_rewards(root, base);
}

void read_peft(Section section, const PathBase& base, RunConfig& config) {
  section.choice("method", {"lora"}, "lora");
  config.peft = peft::read_lora(section);
  config.adapter_path =
      read_path(section, "adapter_path", base, adapter_problem, /*optional=*/true);
  config.target_modules_place = section.place("target_modules");
  section.finish();
}

/// Names of flat configurations whose last word is no key here; the others are found by themselves.
void tell_flat_names(Section& root) {
  for (const auto* word : {"model_name_or_path", "base_model", "model_name", "model_path"})
    root.redirect(word, "model.name_or_path");
  for (const auto* word : {"dataset", "datasets", "dataset_name", "train_file", "train_dataset"})
    root.redirect(word, "data.train");
  for (const auto* word : {"eval_dataset", "eval_file", "validation_file", "test_datasets"})
    root.redirect(word, "data.eval");
  for (const auto* word : {"bf16", "fp16", "torch_dtype"}) root.redirect(word, "model.dtype");
  root.redirect("output_dir", "output.dir");
  root.redirect("lora", "peft");
  root.redirect("training", "train");
  root.redirect("output_router_logits", "router.router_aux_loss_coef");
}

RunConfig read(const Document& document, const PathBase& base) {
  auto root = document.root();
  tell_flat_names(root);
  RunConfig config;
  read_task(root, base, config);
  const bool grpo = config.task == "grpo";
  config.model = read_model(root.section("model"), base);
  read_peft(root.section("peft"), base, config);
  config.data = read_data(root.section("data"), base, grpo);
  auto train = root.section("train");
  const bool has_rate = train.has("learning_rate");
  config.train = read_train(train, config.notes);
  if (grpo && !has_rate) config.train.learning_rate = kGrpoLearningRate;
  auto router = root.section("router");
  config.router = read_router(router, grpo);
  if (config.peft) {
    config.peft->train_router = config.router.train_router;
    config.peft->places["train_router"] = router.place("train_router");
  }
  config.parallel = read_parallel(root.section("parallel"));
  config.output = read_output(root.section("output"), base);
  if (grpo) check_grpo(root, config);
  root.finish();
  return config;
}

std::string read_text(const fs::path& file) {
  const auto name = file.string();
  if (const auto problem = file_problem(file); !problem.empty())
    throw configs::ConfigError(name + ": " + problem);
  // Beyond what Document::yaml takes: a device has no end.
  constexpr std::streamsize kMost = std::streamsize{2} << 20;
  std::ifstream stream(file, std::ios::binary);
  std::string text(kMost, '\0');
  text.resize(static_cast<std::size_t>(stream.read(text.data(), kMost).gcount()));
  if (stream.bad()) throw configs::ConfigError(name + ": cannot be read to its end");
  return text;
}

}  // namespace

RunConfig parse_run_config(const std::string& text, const fs::path& job,
                           const std::vector<std::string>& overrides, Paths paths) {
  auto document = Document::yaml(text, job.string());
  for (const auto& assignment : overrides) document.set(assignment);
  auto config = read(document, {.folder = fs::absolute(job).parent_path(), .paths = paths});
  document.check();
  const auto aliases = document.notes();
  config.notes.insert(config.notes.begin(), aliases.begin(), aliases.end());
  return config;
}

RunConfig read_run_config(const fs::path& job, const std::vector<std::string>& overrides,
                          Paths paths) {
  return parse_run_config(read_text(job), job, overrides, paths);
}

std::string job_schema() {
  const auto document = Document::describing();
  read(document, {});
  return document.schema("Tailor job file");
}

}  // namespace tailor::trainer
