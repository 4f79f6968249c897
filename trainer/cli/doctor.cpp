// tailor doctor: what this build and this machine can do, and what is missing.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "models/kernels/arithmetic.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/devices.hpp"

namespace tailor::trainer::cli {
namespace {

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

double memory_gib(const char* field) {
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field))
      return std::stod(line.substr(line.find(':') + 1)) / (1024.0 * 1024.0);
  }
  return 0.0;
}

nlohmann::ordered_json examine() {
  using models::kernels::Arithmetic;
  const auto best = models::kernels::best_arithmetic(at::kBFloat16);
  nlohmann::ordered_json out;
  out["version"] = TAILOR_VERSION;
  out["libtorch"] = TORCH_VERSION;
  out["processor"] = processor();
  out["vector_instructions"] = at::get_cpu_capability();
  out["cores"] = std::thread::hardware_concurrency();
  out["threads"] = at::get_num_threads();
  out["memory_gib"] = memory_gib("MemTotal");
  out["memory_available_gib"] = memory_gib("MemAvailable");
  out["bfloat16_products"] = models::kernels::has_bf16_products();
  out["arithmetic_for_bfloat16_weights"] =
      models::kernels::describe(best) +
      (best == Arithmetic::Float32 ? " over bfloat16 storage" : "");
  const auto gpus = accelerators();
  out["cuda"] = gpus.built_with_cuda;
  out["cuda_runtime"] = gpus.runtime;
  out["gpus"] = gpus.devices;
  out["usable_gpus"] = gpus.usable;
  return out;
}

int doctor(bool json) {
  const auto found = examine();
  if (json) {
    std::printf("%s\n", found.dump().c_str());
    return 0;
  }
  const auto text = [&](const char* key) { return found[key].get<std::string>(); };
  std::printf("tailor %s, libtorch %s\n", text("version").c_str(), text("libtorch").c_str());
  std::printf("processor    %s, %u cores, %s\n", text("processor").c_str(),
              found["cores"].get<unsigned>(), text("vector_instructions").c_str());
  std::printf("memory       %.1f GiB, %.1f available\n", found["memory_gib"].get<double>(),
              found["memory_available_gib"].get<double>());
  std::printf("bfloat16     computed with %s\n", text("arithmetic_for_bfloat16_weights").c_str());
  std::printf("threads      %d\n", found["threads"].get<int>());
  std::printf("devices      training and generation run on %s\n",
              found["usable_gpus"].empty() ? "the CPU" : "a GPU (model.device), or the CPU");
  if (found["cuda"].get<bool>())
    std::printf("gpus         %zu visible to %s\n", found["gpus"].size(),
                text("cuda_runtime").c_str());
  for (const auto& gpu : found["gpus"])
    std::printf("             %s\n", gpu.get<std::string>().c_str());
  if (!found["bfloat16_products"].get<bool>())
    std::printf("note         no AVX-512 BF16 or AMX: bfloat16 weights are widened to float32\n");
  if (memory_gib("MemAvailable") < 2.0)
    std::printf("note         under 2 GiB of memory: choose a small model and max_length\n");
  return 0;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("doctor", "Show what this build and this machine can do");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "print the result as JSON");
  command->callback([json, &action] { action = [json] { return doctor(*json); }; });
}

}  // namespace tailor::trainer::cli
