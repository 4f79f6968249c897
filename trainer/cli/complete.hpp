#pragma once

#include <string>
#include <vector>

#include "models/generation/engine.hpp"
#include "trainer/cli/prompts.hpp"

namespace tailor::trainer::cli {

/// models::generate() of prompts, `num_completions` of each: completion j of prompt i has the
/// number i num_completions + j, which is its random stream too. Throws ConfigError for a prompt
/// that the model cannot take, NumericError where the model answers no finite numbers.
std::vector<models::Completion> complete(const models::CausalLM& model,
                                         const std::vector<Prompt>& prompts,
                                         std::int64_t num_completions, std::int64_t max_new_tokens,
                                         const models::GenerationOptions& options,
                                         const models::OnToken& on_token = {},
                                         const models::OnCompletion& on_completion = {});

}  // namespace tailor::trainer::cli
