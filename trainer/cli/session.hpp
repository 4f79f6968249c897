#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "distributed/mpi_runtime.hpp"
#include "models/families/causal_lm.hpp"
#include "models/files/pretrained.hpp"
#include "models/kernels/arithmetic.hpp"
#include "models/text/chat.hpp"
#include "peft/lora.hpp"
#include "trainer/data/dataset.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer::cli {

/// How a model is stored, what multiplies and where.
struct Precision {
  at::ScalarType stored = at::kBFloat16;
  models::kernels::Arithmetic arithmetic = models::kernels::Arithmetic::Float32;
  at::Device device = at::kCPU;

  std::string describe() const;  // "bfloat16 weights, float32 products"
};

/// What config.device means here, for a process that is the seat.rank-th of seat.size on this
/// machine: `auto` a GPU of its own where the program is built with CUDA and there are enough of
/// them, else the CPU. It becomes the current one. Throws ConfigError for `cuda` where there is
/// none, and for another word.
at::Device choose_device(const ModelConfig& config, const distributed::NodeRank& seat = {});

/// The choice that `dtype` and `compute_dtype` make on a device; `dtype: auto` stores bfloat16, and
/// GPUs multiply it. Throws ConfigError for bfloat16 products where the processor has none or where
/// float32 is stored, and for a word that is none of the configuration's.
Precision choose_precision(const ModelConfig& config, at::Device device);
Precision choose_precision(const ModelConfig& config);  // on the device of one process alone

/// A model in memory, with the adapter where one was asked for (null: the base alone).
struct Session {
  models::Pretrained pretrained;  // its tokenizer: pretrained.tokenizer
  Precision precision;
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;
};

/// Reads the weights. float32 copies of bfloat16 weights, where products are float32, are kept up
/// to kWidenedBudgetBytes.
constexpr std::int64_t kWidenedBudgetBytes = std::int64_t{4} << 30;
std::unique_ptr<models::CausalLM> load_weights(const models::Pretrained& pretrained,
                                               const Precision& precision);
/// The same into a model that is made and was perhaps cut into parts.
void load_weights_into(models::CausalLM& model, const models::Pretrained& pretrained,
                       const Precision& precision, const models::TakeParameter& take = {});
/// Says on stderr where the files hold tensors that the whole `model` has no place for.
void warn_of_unused(models::CausalLM& model, const models::Pretrained& pretrained);

/// Opens the files, reads the weights and, where `adapter` is not empty, seats a saved adapter (a
/// PEFT folder) in evaluation mode. Call set_threads() before. Throws ConfigError or FileError.
Session open_session(const ModelConfig& config, const std::filesystem::path& adapter = {});

/// Seats a saved adapter in a loaded model.
std::unique_ptr<peft::LoraAdapter> seat_saved_adapter(models::CausalLM& model,
                                                      const std::filesystem::path& adapter);

/// The model's chat template. Throws FileError where it has none or one that is not known.
std::shared_ptr<const models::text::ChatTemplate> chat_template(
    const models::Pretrained& pretrained);

/// How rows become tokens. The chat template is made only where `files` hold messages, so that a
/// base model without one trains on the other formats.
Tokenization tokenization(const models::Pretrained& pretrained, const std::vector<DataFile>& files,
                          const DataConfig& config);

/// Threads of tensor operations: `threads`, or one a core that this process may use where it is 0.
/// Once, before the first tensor operation. Throws ConfigError naming `key` for a negative number
/// and for many times more threads than cores.
void set_threads(std::int64_t threads, const std::string& key = "--threads");

}  // namespace tailor::trainer::cli
