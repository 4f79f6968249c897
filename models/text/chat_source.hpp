#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tailor::models::text {

/// What a ChatML template does beside wrapping messages in <|im_start|> and <|im_end|>.
struct ChatMlStyle {
  enum class Kind {
    Plain,    // any role as it stands (SmolLM2, Qwen2)
    Tools,    // tool results are collected into a user turn (Qwen2.5, Qwen3 of July 2025)
    Thinking  // as Tools; reasoning stays with the last assistant turns only (Qwen3)
  } kind;
  std::optional<std::string> default_system;  // put in front where the first message is none
};

/// Recognises the source of a chat template, or answers nothing. A template is a program: one that
/// merely looks like a known one may render something else. So the whole source must agree, up to
/// spelling (white space that renders nothing, quotes, comments) and the default system message.
std::optional<ChatMlStyle> recognise_chat_template(std::string_view jinja);

/// The source in one spelling. White space follows transformers' settings of Jinja: trim_blocks and
/// lstrip_blocks.
std::string canonical_jinja(std::string_view source);

}  // namespace tailor::models::text
