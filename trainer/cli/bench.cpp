// tailor bench: the machine's limits, and how near a whole training step comes to them.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "models/kernels/arithmetic.hpp"
#include "models/kernels/tiled_gemm.hpp"
#include "trainer/bench/gemm.hpp"
#include "trainer/bench/moe.hpp"
#include "trainer/bench/step.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/session.hpp"

namespace tailor::trainer::cli {
namespace {

using models::kernels::Arithmetic;

struct Options {
  std::string model, dtype = "bfloat16", compute_dtype = "auto";
  std::int64_t rows = 4, length = 512, runs = 5, r = 16, threads = 0;
  MoeShape moe;
  std::vector<std::int64_t> ranks{1, 16};
  bool json = false;
};

std::vector<Arithmetic> arithmetics() {
  std::vector<Arithmetic> out{Arithmetic::Float32};
  if (models::kernels::has_bf16_products()) out.push_back(Arithmetic::BFloat16);
  return out;
}

const char* name_of(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::Float32 ? "float32" : "bfloat16";
}

const char* maker(bool tiled) { return tiled ? "tailor" : "libtorch"; }

int bench_gemm(const Options& options) {
  set_threads(options.threads);
  nlohmann::ordered_json result;
  result["threads"] = at::get_num_threads();
  result["float32_products_by"] = maker(models::kernels::prefers_tiled_gemm());
  for (const auto arithmetic : arithmetics()) {
    const auto speeds = measure_gemm(arithmetic);
    result[std::string(name_of(arithmetic)) + "_gflops"] = peak_gflops(speeds);
    for (const auto& s : speeds) {
      result["products"].push_back({{"dtype", name_of(arithmetic)},
                                    {"tokens", s.tokens},
                                    {"in", s.in},
                                    {"out", s.out},
                                    {"by", maker(s.tiled)},
                                    {"gflops", s.gflops}});
      if (!options.json)
        std::printf("%-9s (%4ld, %4ld) x (%4ld, %4ld)  %-8s %7.1f GFLOP/s\n", name_of(arithmetic),
                    s.tokens, s.in, s.out, s.in, maker(s.tiled), s.gflops);
    }
  }
  const auto bandwidth = measure_read_bandwidth();
  result["read_bytes_per_second"] = bandwidth;
  if (options.json) {
    std::printf("%s\n", result.dump().c_str());
    return 0;
  }
  std::printf("float32 products are made by %s\n", maker(models::kernels::prefers_tiled_gemm()));
  for (const auto arithmetic : arithmetics())
    std::printf("peak %s: %.1f GFLOP/s\n", name_of(arithmetic),
                result[std::string(name_of(arithmetic)) + "_gflops"].get<double>());
  std::printf("memory read: %.1f GB/s, %d threads\n", bandwidth * 1e-9, at::get_num_threads());
  return 0;
}

int bench_step(const Options& options) {
  set_threads(options.threads);
  ModelConfig config;
  config.dtype = options.dtype;
  config.compute_dtype = options.compute_dtype;
  config.device = "cpu";  // against the peak of whose products it is measured
  const auto precision = choose_precision(config);
  Session session;
  std::unique_ptr<models::CausalLM> model;
  if (options.model.empty()) {
    model = random_smollm2(precision.stored, precision.arithmetic);
  } else {
    config.name_or_path = options.model;
    session = open_session(config);
    model = std::move(session.model);
  }
  const auto peak = peak_gflops(measure_gemm(precision.arithmetic));
  peft::LoraConfig lora;
  lora.r = options.r;
  lora.lora_alpha = 2.0 * static_cast<double>(options.r);
  const auto step = measure_step(*model, lora, options.rows, options.length, options.runs, peak);
  if (options.json) {
    const nlohmann::ordered_json result{
        {"model", options.model.empty() ? "random SmolLM2-135M" : options.model},
        {"precision", precision.describe()},
        {"tokens", options.rows * options.length},
        {"tokens_per_second", step.tokens_per_second},
        {"step_time_s", step.seconds},
        {"forward_s", step.forward_s},
        {"loss_s", step.loss_s},
        {"backward_s", step.backward_s},
        {"update_s", step.update_s},
        {"multiplied_parameters", step.parameters},
        {"gemm_peak_gflops", peak},
        {"share_of_peak", step.share_of_peak}};
    std::printf("%s\n", result.dump().c_str());
    return 0;
  }
  std::printf("%s, %ld x %ld tokens, LoRA r = %ld on all linears, %d threads\n",
              precision.describe().c_str(), options.rows, options.length, options.r,
              at::get_num_threads());
  std::printf("%.0f tokens/s, %.3f s a step: forward %.3f, loss %.3f, backward %.3f, update %.4f\n",
              step.tokens_per_second, step.seconds, step.forward_s, step.loss_s, step.backward_s,
              step.update_s);
  std::printf("%.2f of the GEMM peak of %.0f GFLOP/s, counting 4 x %.1f M FLOP a token\n",
              step.share_of_peak, peak, step.parameters * 1e-6);
  return 0;
}

int bench_moe(const Options& options) {
  set_threads(options.threads);
  const auto arithmetic = Arithmetic::Float32;
  const auto base = measure_moe(options.moe, arithmetic, /*r=*/0);
  const auto peak = peak_gflops(measure_gemm(arithmetic));
  nlohmann::ordered_json result{{"threads", at::get_num_threads()},
                                {"num_experts", options.moe.num_experts},
                                {"num_experts_per_tok", options.moe.num_experts_per_tok},
                                {"tokens", options.moe.tokens},
                                {"tokens_per_second", base.tokens_per_second},
                                {"gflops", base.gflops},
                                {"gemm_peak_gflops", peak},
                                {"share_of_peak", base.gflops / peak},
                                {"lora", nlohmann::ordered_json::array()}};
  for (const auto r : options.ranks) {
    const auto adapted = measure_moe(options.moe, arithmetic, r);
    result["lora"].push_back({{"r", r},
                              {"tokens_per_second", adapted.tokens_per_second},
                              {"overhead", adapted.seconds / base.seconds - 1.0}});
  }
  if (options.json) {
    std::printf("%s\n", result.dump().c_str());
    return 0;
  }
  std::printf("%ld experts, top %ld, %ld tokens, hidden %ld, width %ld, float32, %d threads\n",
              options.moe.num_experts, options.moe.num_experts_per_tok, options.moe.tokens,
              options.moe.hidden_size, options.moe.moe_intermediate_size, at::get_num_threads());
  std::printf("forward + backward %.0f tokens/s, %.2f of the GEMM peak of %.0f GFLOP/s\n",
              base.tokens_per_second, base.gflops / peak, peak);
  for (const auto& lora : result["lora"])
    std::printf("LoRA r = %ld on every expert: %.0f tokens/s, %+.1f %% time\n",
                lora["r"].get<long>(), lora["tokens_per_second"].get<double>(),
                100.0 * lora["overhead"].get<double>());
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto* bench =
      app.add_subcommand("bench", "Measure kernels and whole steps against the machine's limits");
  bench->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  const auto common = [options](CLI::App* command) {
    command
        ->add_option("--threads", options->threads, "threads of tensor operations; 0: one a core")
        ->check(CLI::Range(0, 4096));
    command->add_flag("--json", options->json, "print the result as JSON");
  };
  auto* gemm = bench->add_subcommand("gemm", "Matrix products and memory bandwidth");
  common(gemm);
  gemm->callback([options, &action] { action = [options] { return bench_gemm(*options); }; });

  auto* step = bench->add_subcommand("step", "A LoRA training step");
  common(step);
  step->add_option("--model", options->model,
                   "HF directory or GGUF file; without it random weights of SmolLM2-135M's shape");
  step->add_option("--dtype", options->dtype, "stored: bfloat16, float32, auto");
  step->add_option("--compute-dtype", options->compute_dtype, "products: auto, float32, bfloat16");
  step->add_option("--rows", options->rows, "rows a step")->check(CLI::Range(1, 1 << 20));
  step->add_option("--length", options->length, "tokens a row")->check(CLI::Range(2, 1 << 20));
  step->add_option("--runs", options->runs, "measured steps")->check(CLI::Range(1, 1 << 20));
  step->add_option("--r", options->r, "LoRA rank")->check(CLI::Range(1, 65536));
  step->callback([options, &action] { action = [options] { return bench_step(*options); }; });

  auto* moe = bench->add_subcommand("moe", "A sparse feed-forward block, with and without LoRA");
  common(moe);
  const auto size = [moe](const char* name, std::int64_t& value, const char* what) {
    moe->add_option(name, value, what)->check(CLI::Range(1, 1 << 20));
  };
  size("--tokens", options->moe.tokens, "tokens");
  size("--hidden-size", options->moe.hidden_size, "width of the input");
  size("--moe-intermediate-size", options->moe.moe_intermediate_size, "width of an expert");
  size("--num-experts", options->moe.num_experts, "experts");
  size("--num-experts-per-tok", options->moe.num_experts_per_tok, "experts of a token");
  moe->add_option("--r", options->ranks, "LoRA ranks")->check(CLI::Range(1, 65536));
  moe->callback([options, &action] { action = [options] { return bench_moe(*options); }; });
}

}  // namespace tailor::trainer::cli
