#include "trainer/cli/memory_estimate.hpp"

#include <algorithm>
#include <set>

#include "trainer/losses/token_logprobs.hpp"
#include "trainer/sft/micro_batch.hpp"

namespace tailor::trainer::cli {
namespace {

using models::kernels::Arithmetic;

std::string parent(const std::string& path) { return path.substr(0, path.rfind('.')); }

/// Tokens of the largest micro-batch that the data can give.
std::int64_t largest_micro_batch(const Dataset& train, const Precision& precision) {
  std::int64_t longest = 0;
  for (const auto& example : train.examples)
    longest = std::max(longest, static_cast<std::int64_t>(example.ids.size()));
  return std::max(longest, std::min(train.num_tokens,
                                    micro_batch_tokens(precision.arithmetic, precision.device)));
}

}  // namespace

ModelSize measure(models::CausalLM& model) {
  ModelSize out;
  out.vocab_size = model.shape().vocab_size;
  std::set<std::string> linear;
  for (const auto& slot : model.slots()) linear.insert(slot.name + ".weight");
  bool tied_head = true;
  std::set<std::pair<std::string, std::int64_t>> inputs;  // projections of one parent share theirs
  for (const auto& parameter : model.parameters()) {
    std::int64_t values = 1;
    for (const auto extent : parameter.shape) values *= extent;
    out.parameters += values;
    if (!linear.contains(parameter.name) || parameter.shape.size() != 2) continue;
    out.linear_values += values;
    if (parameter.shape[0] == out.vocab_size) {  // the head, which saves nothing by token
      tied_head = false;
      continue;
    }
    out.saved_values += parameter.shape[0];
    out.answer_values += parameter.shape[0];
    if (inputs.emplace(parent(parent(parameter.name)), parameter.shape[1]).second)
      out.saved_values += parameter.shape[1];
  }
  // A tied head is the embedding, multiplied like any linear layer.
  if (tied_head) out.linear_values += out.vocab_size * model.shape().hidden_size;
  // The residual stream in front of both norms of a layer.
  out.saved_values += 2 * model.shape().num_hidden_layers * model.shape().hidden_size;
  return out;
}

std::int64_t MemoryEstimate::total() const {
  std::int64_t sum = 0;
  for (const auto& part : parts) sum += part.bytes;
  return sum;
}

MemoryEstimate estimate_memory(const ModelSize& size, const peft::LoraAdapter& adapter,
                               const Dataset& train, const Precision& precision,
                               std::int64_t sampled_tokens, std::int64_t reused_bytes) {
  const std::int64_t stored_bytes = precision.stored == at::kFloat ? 4 : 2;
  const std::int64_t active_bytes = precision.arithmetic == Arithmetic::Float32 ? 4 : 2;
  const bool widened = stored_bytes < active_bytes;
  const auto tokens = largest_micro_batch(train, precision);
  constexpr std::int64_t kFlatBuffers = 4;  // values, gradients, two moments
  constexpr std::int64_t kLogitRows = 256;  // of a chunk of the loss
  constexpr std::int64_t kProgramBytes =
      150'000'000;  // libtorch, tokenizer, work space of products
  const auto logits_bytes = tokens * size.vocab_size * 4;
  const std::int64_t kept_logits =
      sampled_tokens > 0 && logits_bytes <= kKeptLogitsBytes ? logits_bytes : 0;
  std::int64_t data_bytes = 0;
  for (const auto& example : train.examples)
    data_bytes += static_cast<std::int64_t>(example.ids.size() * 2 * sizeof(std::int64_t));
  MemoryEstimate out{
      .parts = {
          {"base weights", size.parameters * stored_bytes},
          {"float32 copies", widened ? std::min(size.linear_values * 4, kWidenedBudgetBytes) : 0},
          {"adapter and optimizer", adapter.num_parameters() * 4 * kFlatBuffers},
          {"activations", tokens * size.saved_values * active_bytes},
          {"logits", 2 * std::min(tokens, kLogitRows) * size.vocab_size * 4 + kept_logits},
          {"data", data_bytes},
          {"program", kProgramBytes},
      }};
  const auto answers = sampled_tokens * size.answer_values * active_bytes;
  if (reused_bytes > 0) out.parts.push_back({"reused forwards", std::min(answers, reused_bytes)});
  return out;
}

}  // namespace tailor::trainer::cli
