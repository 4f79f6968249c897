// tailor upcycle: a dense model into a sparse mixture of experts.
#include "models/files/upcycle.hpp"

#include <ATen/core/grad_mode.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"
#include "models/families/feed_forward_inputs.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/cli/written_model.hpp"
#include "trainer/data/guess_format.hpp"

namespace tailor::trainer::cli {
namespace {

/// Several times the hidden size of a small model, and still one short forward.
constexpr std::int64_t kBalanceTokens = 2048;

struct UpcycleCommand {
  std::string model, output, dtype = "auto", balance;
  std::int64_t threads = 0;
  models::UpcycleOptions upcycle;
  bool json = false;
};

std::int64_t num_parameters(const std::string& config_json, const std::string& config_file) {
  std::int64_t count = 0;
  for (const auto& parameter : models::make_causal_lm(config_json, config_file)->parameters()) {
    std::int64_t size = 1;
    for (const auto length : parameter.shape) size *= length;
    count += size;
  }
  return count;
}

/// The first rows of a file, as many as have kBalanceTokens tokens.
models::Batch first_rows(const std::string& path, const models::Pretrained& pretrained) {
  const std::vector<DataFile> files{{path, guess_format(path), "--balance"}};
  DataConfig config;
  config.max_length = kBalanceTokens;
  std::vector<std::vector<std::int64_t>> documents;
  std::int64_t num_tokens = 0;
  for (auto& row : load_dataset(files, config, tokenization(pretrained, files, config)).examples) {
    if (num_tokens >= kBalanceTokens) break;
    num_tokens += std::ssize(row.ids);
    documents.push_back(std::move(row.ids));
  }
  return models::pack(documents);
}

/// What the routers are balanced on.
std::vector<at::Tensor> router_inputs(const UpcycleCommand& command, const models::Batch& batch,
                                      at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  ModelConfig config;
  config.name_or_path = command.model;
  config.dtype = dtype == at::kFloat ? "float32" : "bfloat16";
  config.device = "cpu";  // where the weights are written from
  const auto session = open_session(config);
  std::cerr << "balancing routers on " << batch.num_tokens() << " tokens of " << command.balance
            << '\n';
  return models::feed_forward_inputs(*session.model, batch);
}

int upcycle(UpcycleCommand command) {
  refuse_used(command.output);
  if (command.balance.empty() && command.threads != 0)
    throw configs::ConfigError("--threads: needs --balance; nothing else is computed");
  const auto dense = models::open_pretrained(command.model);
  const auto dtype = written_dtype(command.dtype, *dense.tensors);
  const auto before = num_parameters(dense.config_json, dense.config_file);
  auto sparse = models::upcycled(dense, command.upcycle);
  if (!command.balance.empty()) {
    set_threads(command.threads);
    const auto batch = first_rows(command.balance, dense);
    command.upcycle.router_inputs = router_inputs(command, batch, dtype);
    sparse = models::upcycled(dense, command.upcycle);
  }
  const auto after = num_parameters(sparse.config_json, sparse.config_file);
  const std::string dtype_name = dtype == at::kFloat ? "float32" : "bfloat16";
  const auto split = command.upcycle.split, experts = command.upcycle.num_experts * split,
             active = command.upcycle.num_experts_per_tok * split;
  const auto family = models::make_causal_lm(sparse.config_json, sparse.config_file)->shape();
  std::cerr << "writing " << family.model_type << " with " << experts << " experts, " << active
            << " a token, to " << command.output << " (" << after << " parameters as " << dtype_name
            << ", from " << before << ")\n";
  models::write_hf_directory(sparse, command.output, dtype);
  if (command.json) {
    std::cout << nlohmann::ordered_json{{"output_dir", command.output},
                                        {"model_type", family.model_type},
                                        {"dtype", dtype_name},
                                        {"num_experts", experts},
                                        {"num_experts_per_tok", active},
                                        {"num_tensors", sparse.tensors->entries().size()},
                                        {"num_parameters", after},
                                        {"num_parameters_dense", before}}
              << '\n';
  }
  return 0;
}

}  // namespace

void add_upcycle(CLI::App& app, Action& action) {
  auto options = std::make_shared<UpcycleCommand>();
  auto* command =
      app.add_subcommand("upcycle", "Make a sparse mixture of experts out of a dense model");
  command->add_option("--model", options->model, "HF directory or GGUF file (llama, qwen2, qwen3)")
      ->required();
  command->add_option("--output", options->output, "HF directory to write; new or empty")
      ->required();
  auto& upcycle_options = options->upcycle;
  command->add_option("--num-experts", upcycle_options.num_experts, "copies of each feed-forward")
      ->capture_default_str();
  command
      ->add_option("--num-experts-per-tok", upcycle_options.num_experts_per_tok,
                   "copies that a token goes through")
      ->capture_default_str();
  command
      ->add_option("--split", upcycle_options.split,
                   "cut each copy into so many experts, all chosen together at first")
      ->capture_default_str();
  command
      ->add_option("--noise", upcycle_options.noise,
                   "perturb the experts by so many standard deviations of their weights; 0 "
                   "preserves the function")
      ->capture_default_str();
  command->add_option("--seed", upcycle_options.seed, "of router and noise")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  command
      ->add_option("--dtype", options->dtype,
                   "of the weights written; auto: float32 stays, else bfloat16")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->capture_default_str();
  command->add_option(
      "--balance", options->balance,
      "JSONL rows: routers send equally many of their first 2,048 tokens to every expert");
  command->add_option("--threads", options->threads, "of --balance; 0: one a core");
  command->add_flag("--json", options->json, "the result as one JSON object on stdout");
  command->callback([options, &action] { action = [options] { return upcycle(*options); }; });
}

}  // namespace tailor::trainer::cli
