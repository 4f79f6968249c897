#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/generation/engine.hpp"
#include "trainer/cli/prompts.hpp"

namespace tailor::trainer::cli {

struct ChatLoopOptions {
  models::GenerationOptions engine;
  std::int64_t max_new_tokens = 256;
  std::vector<std::string> stop;
};

/// A conversation on the terminal until the input ends. "/reset" begins anew, "/quit" ends; Ctrl-C
/// ends the reply that is being written, else the conversation.
void chat_loop(const models::CausalLM& model,
               const std::shared_ptr<const models::text::Tokenizer>& tokenizer, PromptMaker& maker,
               const ChatLoopOptions& options);

}  // namespace tailor::trainer::cli
