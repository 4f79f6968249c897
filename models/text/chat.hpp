#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

struct Message {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

/// A rendered conversation: one entry a token.
struct Rendered {
  std::vector<std::int64_t> ids;
  std::vector<bool>
      from_assistant;  // the model wrote it: an assistant turn's content and its end token
};

/// A chat template. Today ChatML ("<|im_start|>role\ncontent<|im_end|>\n") as SmolLM2, Qwen2,
/// Qwen2.5 and Qwen3 have it, recognised in the model's Jinja source, with the default system
/// message that the source carries. render() and encode() equal transformers' apply_chat_template;
/// they throw configs::ConfigError for no messages and for a role that the template would drop.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  virtual std::string render(const std::vector<Message>& messages,
                             bool add_generation_prompt) const = 0;
  /// Token ids of render(), with the mask. A message's tokens are the same whatever follows it, but
  /// for Qwen3, which drops the reasoning ("<think>...</think>") of turns before the last question.
  /// A token that reaches from the header into the content counts as content, as in transformers.
  virtual Rendered encode(const std::vector<Message>& messages,
                          bool add_generation_prompt) const = 0;
  virtual std::int64_t end_of_turn_id() const = 0;  // "<|im_end|>"
};

/// `jinja` is the model's template source ("" where it has none), `model` for messages. Throws
/// models::FileError where the template is none that is known here.
std::shared_ptr<const ChatTemplate> make_chat_template(const std::string& jinja,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       const std::string& model);

}  // namespace tailor::models::text
