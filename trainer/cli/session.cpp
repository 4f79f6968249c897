#include "trainer/cli/session.hpp"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <thread>

#include "models/families/unused_tensors.hpp"
#include "models/kernels/weight.hpp"
#include "peft/adapter_file.hpp"
#include "trainer/cli/devices.hpp"
#include "trainer/metrics/log.hpp"

namespace tailor::trainer::cli {

using models::kernels::Arithmetic;

namespace {

/// Cores that this process may use, not those of the machine: a container or taskset gives fewer.
std::int64_t usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const auto number = sched_getaffinity(0, sizeof cores, &cores) == 0
                          ? CPU_COUNT(&cores)
                          : static_cast<std::int64_t>(std::thread::hardware_concurrency());
  return std::max<std::int64_t>(number, 1);
}

/// Empty where a process on this seat has a GPU.
std::string why_no_gpu(const Accelerators& found, const distributed::NodeRank& seat) {
  if (!found.built_with_cuda) return "this program is built without CUDA (cmake -DTAILOR_CUDA=ON)";
  if (found.devices.empty()) return "none answers on this machine";
  if (static_cast<int>(found.usable.size()) >= seat.size) return "";
  return "this machine has " + std::to_string(found.usable.size()) +
         " of compute capability 8.0 or later for its " + std::to_string(seat.size) +
         (seat.size == 1 ? " rank" : " ranks");
}

}  // namespace

std::string Precision::describe() const {
  const auto weights = std::string(stored == at::kBFloat16 ? "bfloat16" : "float32") + " weights, ";
  if (device.is_cpu()) return weights + models::kernels::describe(arithmetic);
  return weights + (arithmetic == Arithmetic::BFloat16 ? "bfloat16" : "float32") +
         " products on a GPU";
}

at::Device choose_device(const ModelConfig& config, const distributed::NodeRank& seat) {
  const auto& word = config.device;
  if (word == "cpu") return at::kCPU;
  if (word != "auto" && word != "cuda")
    throw configs::ConfigError(config.device_place + ": expected auto, cpu or cuda, found \"" +
                               word + "\"");
  const auto found = accelerators();
  const auto problem = why_no_gpu(found, seat);
  if (problem.empty()) {
    const auto index = found.usable[static_cast<std::size_t>(seat.rank)];
    use_gpu(index);
    return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
  }
  if (word == "auto") return at::kCPU;
  throw configs::ConfigError(config.device_place + ": expected a GPU for cuda, but " + problem +
                             "; use auto or cpu");
}

Precision choose_precision(const ModelConfig& config) {
  return choose_precision(config, choose_device(config));
}

Precision choose_precision(const ModelConfig& config, at::Device device) {
  Precision precision{.device = device};
  const bool multiplies_bf16 = device.is_cuda() || models::kernels::has_bf16_products();
  if (config.dtype == "float32") {
    precision.stored = at::kFloat;
  } else if (config.dtype != "bfloat16" && config.dtype != "auto") {
    throw configs::ConfigError("model.dtype: expected bfloat16, float32 or auto, found \"" +
                               config.dtype + "\"");
  }
  if (config.compute_dtype == "auto") {
    precision.arithmetic = device.is_cuda() && precision.stored == at::kBFloat16
                               ? Arithmetic::BFloat16
                               : models::kernels::best_arithmetic(precision.stored);
  } else if (config.compute_dtype == "bfloat16") {
    if (precision.stored != at::kBFloat16)
      throw configs::ConfigError(config.compute_dtype_place +
                                 ": bfloat16 products need bfloat16 weights, found model.dtype "
                                 "float32");
    if (!multiplies_bf16)
      throw configs::ConfigError(config.compute_dtype_place +
                                 ": this processor does not multiply bfloat16 (AVX-512 BF16 or AMX "
                                 "wanted); use auto or float32, which keep bfloat16 weights");
    precision.arithmetic = Arithmetic::BFloat16;
  } else if (config.compute_dtype != "float32") {
    throw configs::ConfigError(config.compute_dtype_place +
                               ": expected auto, float32 or bfloat16, found \"" +
                               config.compute_dtype + "\"");
  }
  return precision;
}

std::unique_ptr<models::CausalLM> load_weights(const models::Pretrained& pretrained,
                                               const Precision& precision) {
  auto model = models::make_causal_lm(pretrained.config_json, pretrained.config_file);
  load_weights_into(*model, pretrained, precision);
  return model;
}

void load_weights_into(models::CausalLM& model, const models::Pretrained& pretrained,
                       const Precision& precision, const models::TakeParameter& take) {
  // Weights that come and go are widened as they are used.
  models::kernels::set_widened_budget_bytes(take ? 0 : kWidenedBudgetBytes);
  models::load_parameters(model, pretrained, precision.stored, precision.arithmetic, take,
                          precision.device);
}

void warn_of_unused(models::CausalLM& model, const models::Pretrained& pretrained) {
  const auto unused = models::unused_tensors(model, pretrained);
  if (unused.empty()) return;
  log_warn(pretrained.path.string() + ": " + std::to_string(unused.size()) +
           (unused.size() == 1 ? " tensor has" : " tensors have") + " no place in the model of " +
           pretrained.config_file + ": " + unused.front() + (unused.size() > 1 ? ", ..." : ""));
}

Session open_session(const ModelConfig& config, const std::filesystem::path& adapter) {
  if (!adapter.empty()) peft::adapter_folder(adapter);  // before weights are read
  Session session;
  session.precision = choose_precision(config);
  session.pretrained = models::open_pretrained(config.name_or_path);
  session.model = load_weights(session.pretrained, session.precision);
  warn_of_unused(*session.model, session.pretrained);
  if (!adapter.empty()) session.adapter = seat_saved_adapter(*session.model, adapter);
  return session;
}

std::unique_ptr<peft::LoraAdapter> seat_saved_adapter(models::CausalLM& model,
                                                      const std::filesystem::path& adapter) {
  auto files = peft::read_adapter(adapter, model.shape().model_type);
  files.config.lora_dropout = 0.0;  // of training alone
  auto seated = std::make_unique<peft::LoraAdapter>(
      model, files.config, /*seed=*/0,
      (adapter / "adapter_config.json").string() + ": target_modules");
  peft::load_factors(files, *seated);
  return seated;
}

std::shared_ptr<const models::text::ChatTemplate> chat_template(
    const models::Pretrained& pretrained) {
  return models::text::make_chat_template(pretrained.chat_template, pretrained.tokenizer,
                                          pretrained.path.string());
}

Tokenization tokenization(const models::Pretrained& pretrained, const std::vector<DataFile>& files,
                          const DataConfig& config) {
  Tokenization how;
  how.tokenizer = pretrained.tokenizer;
  const bool has_messages = std::ranges::any_of(
      files, [](const DataFile& file) { return file.format == DataFormat::Messages; });
  if (has_messages) how.chat = chat_template(pretrained);
  how.assistant_only_loss = config.assistant_only_loss;
  how.completion_only_loss = config.completion_only_loss;
  how.vocab_size =
      models::make_causal_lm(pretrained.config_json, pretrained.config_file)->shape().vocab_size;
  return how;
}

void set_threads(std::int64_t threads, const std::string& key) {
  // Far more than the cores only wait for each other, and each has a stack.
  constexpr std::int64_t kPerCore = 4, kAlways = 16;
  const auto cores = usable_cores();
  const auto most = std::max(kPerCore * cores, kAlways);
  if (threads < 0)
    throw configs::ConfigError(key + ": expected 0 or a positive number, found " +
                               std::to_string(threads));
  if (threads > most)
    throw configs::ConfigError(key + ": expected at most " + std::to_string(most) +
                               " threads where a process may use " + std::to_string(cores) +
                               (cores == 1 ? " core" : " cores") + ", found " +
                               std::to_string(threads));
  at::set_num_threads(static_cast<int>(threads > 0 ? threads : cores));
}

}  // namespace tailor::trainer::cli
