#include "trainer/cli/complete.hpp"

#include <algorithm>

#include "configs/reader.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer::cli {
namespace {

void check(const Prompt& prompt, std::size_t index, const models::ModelShape& shape) {
  const auto name = "prompt " + std::to_string(index) + ": ";
  if (static_cast<std::int64_t>(prompt.ids.size()) > shape.max_position_embeddings)
    throw configs::ConfigError(name + std::to_string(prompt.ids.size()) +
                               " tokens, the model has " +
                               std::to_string(shape.max_position_embeddings) + " positions");
  for (const auto id : prompt.ids)
    if (id < 0 || id >= shape.vocab_size)
      throw configs::ConfigError(name + "token id " + std::to_string(id) +
                                 " is not in the model's vocabulary of " +
                                 std::to_string(shape.vocab_size));
}

}  // namespace

std::vector<models::Completion> complete(const models::CausalLM& model,
                                         const std::vector<Prompt>& prompts,
                                         std::int64_t num_completions, std::int64_t max_new_tokens,
                                         const models::GenerationOptions& options,
                                         const models::OnToken& on_token,
                                         const models::OnCompletion& on_completion) {
  std::vector<models::GenerationRequest> requests;
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    check(prompts[i], i, model.shape());
    longest = std::max(longest, static_cast<std::int64_t>(prompts[i].ids.size()));
    models::GenerationRequest request;
    request.prompt_ids = prompts[i].ids;
    request.num_completions = num_completions;
    request.max_new_tokens = max_new_tokens;
    request.sequence = i * static_cast<std::uint64_t>(num_completions);
    requests.push_back(std::move(request));
  }
  const auto positions = model.shape().max_position_embeddings;
  if (const auto left = positions - longest; left < max_new_tokens)
    log_warn("the longest prompt, of " + std::to_string(longest) + " tokens, leaves " +
             std::to_string(left) + " of the model's " + std::to_string(positions) +
             " positions: completions end there at the latest");
  try {
    return models::generate(model, requests, options, on_token, on_completion);
  } catch (const models::NonFiniteLogits& error) {
    throw NumericError(error.what());
  }
}

}  // namespace tailor::trainer::cli
