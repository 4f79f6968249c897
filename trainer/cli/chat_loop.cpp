#include "trainer/cli/chat_loop.hpp"

#include <cstdio>
#include <iostream>

#include "configs/reader.hpp"
#include "models/text/stop_strings.hpp"
#include "trainer/cli/complete.hpp"
#include "trainer/sft/interrupt.hpp"

namespace tailor::trainer::cli {
namespace {

void show(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// Writes the reply as it comes; answers it.
std::string reply(const models::CausalLM& model,
                  const std::shared_ptr<const models::text::Tokenizer>& tokenizer,
                  const Prompt& prompt, const ChatLoopOptions& options) {
  const InterruptGuard guard;
  models::text::CompletionText text(tokenizer, options.stop);
  const auto completion = complete(model, {prompt}, /*num_completions=*/1, options.max_new_tokens,
                                   options.engine, [&](std::size_t, const models::Sampled& token) {
                                     show(text.push(token.id));
                                     return !text.stopped() && !interrupted();
                                   });
  show(text.finish());
  const bool is_cut = completion.front().finish_reason == models::FinishReason::Length;
  show(interrupted() ? " [interrupted]\n" : is_cut ? " [cut at --max-new-tokens]\n" : "\n");
  return text.text();
}

}  // namespace

void chat_loop(const models::CausalLM& model,
               const std::shared_ptr<const models::text::Tokenizer>& tokenizer, PromptMaker& maker,
               const ChatLoopOptions& options) {
  std::fputs("chat: /reset begins anew, /quit or Ctrl-D ends, Ctrl-C cuts a reply short\n", stderr);
  std::vector<models::text::Message> messages;
  std::string line;
  while (std::fputs("> ", stderr), std::getline(std::cin, line)) {
    if (line == "/quit") return;
    if (line == "/reset") {
      messages.clear();
      continue;
    }
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    messages.push_back({"user", line});
    try {
      const auto answer = reply(model, tokenizer, maker.from_messages(messages), options);
      messages.push_back({"assistant", answer});
    } catch (const configs::ConfigError& error) {  // the conversation has outgrown the model
      std::fprintf(stderr, "%s; /reset begins anew\n", error.what());
      messages.pop_back();
    }
  }
  std::fputc('\n', stderr);
}

}  // namespace tailor::trainer::cli
