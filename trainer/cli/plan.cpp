#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "configs/reader.hpp"
#include "trainer/cli/cluster_plan.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/job_summary.hpp"
#include "trainer/cli/job_task.hpp"
#include "trainer/cli/memory_estimate.hpp"

namespace tailor::trainer::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PlanOptions {
  std::string job;
  std::vector<std::string> overrides;
  bool json = false;
  ClusterPlanOptions cluster;
};

Json to_json(models::CausalLM& model, const peft::LoraAdapter& adapter, const JobTask& task,
             const Precision& precision, const MemoryEstimate& memory, const std::string& sample) {
  Json classes = Json::object(), adapted = Json::object(), bytes = Json::object();
  for (const auto& entry : parameter_classes(model))
    classes[entry.name] = {{"tensors", entry.tensors}, {"parameters", entry.parameters}};
  for (const auto& [name, count] : adapter.counts())
    adapted[name] = {{"layers", count.layers}, {"parameters", count.parameters}};
  for (const auto& part : memory.parts) bytes[part.name] = part.bytes;
  bytes["total"] = memory.total();
  Json out = {
      {"parameters", num_parameters(model)}, {"parameter_classes", classes},
      {"precision", precision.describe()},   {"adapter_parameters", adapter.num_parameters()},
      {"adapter_classes", adapted},          {"memory_bytes", bytes}};
  out.update(Json::parse(task.plan_json()));
  out["sample"] = sample;
  return out;
}

void print(models::CausalLM& model, const peft::LoraAdapter& adapter, const JobTask& task,
           const std::string& model_line, const MemoryEstimate& memory, const std::string& sample) {
  auto& out = std::cout;
  const auto row = [&out](const std::string& name, const std::string& value,
                          const std::string& more) {
    out << "  " << name << std::string(name.size() < 24 ? 24 - name.size() : 1, ' ')
        << std::string(value.size() < 15 ? 15 - value.size() : 0, ' ') << value << more << '\n';
  };
  out << "model: " << model_line << '\n';
  for (const auto& entry : parameter_classes(model))
    row(entry.name, with_commas(entry.parameters),
        "  in " + std::to_string(entry.tensors) + (entry.tensors == 1 ? " tensor" : " tensors"));
  out << "adapter: " << describe_adapter(adapter) << '\n';
  for (const auto& [name, count] : adapter.counts())
    row(name, with_commas(count.parameters), "  in " + std::to_string(count.layers) + " layers");
  for (const auto& warning : adapter_warnings(adapter)) out << "warning: " << warning << '\n';
  for (const auto& line : task.describe()) out << line << '\n';
  out << "memory: about " << as_bytes(memory.total()) << '\n';
  for (const auto& part : memory.parts) row(part.name, as_bytes(part.bytes), "");
  out << sample << '\n';
}

int plan_job(const PlanOptions& options) {
  const auto config = read_run_config(options.job, options.overrides);
  if (!options.json)
    for (const auto& note : config.notes) std::cout << "note: " << note << '\n';
  const auto precision = choose_precision(config.model);
  const auto pretrained = models::open_pretrained(config.model.name_or_path);
  const auto model = models::make_causal_lm(pretrained.config_json, pretrained.config_file);
  const auto line = describe_model(*model, pretrained, precision);
  const auto bare = measure(*model);
  const auto adapter = seat_new_adapter(*model, config);
  check_router(config, *model, *adapter);
  const auto task = open_task(config, pretrained, config.parallel.expert_parallel_size);
  const auto memory = estimate_memory(bare, *adapter, task->documents(), precision,
                                      task->sampled_tokens(), task->reused_bytes(precision.device));
  const auto sample = task->sample(/*max_characters=*/2000);
  if (options.json) {
    std::cout << to_json(*model, *adapter, *task, precision, memory, sample).dump(2) << '\n';
  } else {
    print(*model, *adapter, *task, line, memory, sample);
  }
  return 0;
}

int plan(const PlanOptions& options) {
  const bool has_job = !options.job.empty(), has_model = !options.cluster.architecture.empty();
  if (has_job == has_model)
    throw configs::ConfigError(
        "plan: name either a job file or, for a plan of a cluster, a model's config.json with "
        "--architecture");
  return has_job ? plan_job(options) : plan_cluster(options.cluster, options.json);
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "plan",
      "Show what a job would do, without reading weights: parameters, memory, data; or, with "
      "--architecture, what a model would cost on a cluster and how best to lay it out");
  auto options = std::make_shared<PlanOptions>();
  command->add_option("job", options->job, "the job file (YAML)");
  command->add_option("--set", options->overrides, "override one value: --set peft.r=8")
      ->allow_extra_args(false);
  command->add_flag("--json", options->json, "print the plan as JSON");
  add_cluster_plan_options(*command, options->cluster);
  command->callback([options, &action] { action = [options] { return plan(*options); }; });
}

}  // namespace tailor::trainer::cli
