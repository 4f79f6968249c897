#include "models/text/chat.hpp"

#include <algorithm>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"
#include "models/text/chat_source.hpp"

namespace tailor::models::text {
namespace {

constexpr const char* kBegin = "<|im_start|>";
constexpr const char* kEnd = "<|im_end|>";
constexpr const char* kResponseBegin = "<tool_response>";
constexpr const char* kResponseEnd = "</tool_response>";

/// One <|im_start|>role\nbody<|im_end|>\n
struct Turn {
  std::string role, body;
};

std::string stripped_left(std::string text) {
  return text.erase(0, std::min(text.find_first_not_of('\n'), text.size()));
}
std::string stripped_right(std::string text) { return text.erase(text.find_last_not_of('\n') + 1); }

bool is_tool_response(const std::string& text) {
  const std::string_view begin = kResponseBegin, end = kResponseEnd;
  return text.compare(0, begin.size(), begin) == 0 && text.size() >= end.size() &&
         text.compare(text.size() - end.size(), end.size(), end) == 0;
}

void check_roles(const std::vector<Message>& messages) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "system" || role == "user" || role == "assistant" || role == "tool") continue;
    throw configs::ConfigError("messages[" + std::to_string(i) +
                               "].role: expected system, user, assistant or tool (the model's chat "
                               "template drops others), found '" +
                               role + "'");
  }
}

void append_tool_response(const std::string& content, bool continues, std::vector<Turn>& turns) {
  std::string response = kResponseBegin;
  response += "\n" + content + "\n" + kResponseEnd;
  if (continues) {
    turns.back().body += "\n" + response;
  } else {
    turns.push_back({"user", std::move(response)});
  }
}

std::vector<Turn> tool_turns(const std::vector<Message>& messages) {
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "tool") {
      append_tool_response(messages[i].content, i > 0 && messages[i - 1].role == "tool", turns);
    } else {
      turns.push_back({messages[i].role, messages[i].content});
    }
  }
  return turns;
}

// Qwen3 shows its reasoning only in what follows the last question.
std::string thinking_body(const std::string& message, bool after_question, bool is_last) {
  std::string reasoning, content = message;
  const std::string_view open = "<think>", close = "</think>";
  const auto end = message.find(close);
  if (end != std::string::npos) {
    reasoning = stripped_right(message.substr(0, end));
    const auto begin = reasoning.rfind(open);
    if (begin != std::string::npos) reasoning.erase(0, begin + open.size());
    reasoning = stripped_left(std::move(reasoning));
    content = stripped_left(message.substr(message.rfind(close) + close.size()));
  }
  if (!after_question || !(is_last || !reasoning.empty())) return content;
  return "<think>\n" + stripped_right(stripped_left(std::move(reasoning))) + "\n</think>\n\n" +
         stripped_left(std::move(content));
}

std::vector<Turn> thinking_turns(const std::vector<Message>& messages) {
  std::size_t last_question = messages.size() - 1;
  for (std::size_t i = messages.size(); i-- > 0;) {
    if (messages[i].role == "user" && !is_tool_response(messages[i].content)) {
      last_question = i;
      break;
    }
  }
  auto shown = messages;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    if (shown[i].role != "assistant") continue;
    shown[i].content = thinking_body(shown[i].content, i > last_question, i + 1 == messages.size());
  }
  return tool_turns(shown);
}

class ChatMl : public ChatTemplate {
 public:
  ChatMl(ChatMlStyle style, std::shared_ptr<const Tokenizer> tokenizer, const std::string& model)
      : style_(std::move(style)),
        tokenizer_(std::move(tokenizer)),
        begin_id_(special_id(kBegin, model)),
        end_id_(special_id(kEnd, model)),
        newline_ids_(tokenizer_->encode("\n")) {}

  std::string render(const std::vector<Message>& messages,
                     bool add_generation_prompt) const override {
    std::string text;
    for (const auto& turn : turns(messages)) {
      text += kBegin + turn.role + "\n" + turn.body + kEnd + "\n";
    }
    return add_generation_prompt ? text + kBegin + "assistant\n" : text;
  }

  // Both markers split a text before anything else happens to it, so that the parts between them
  // can be tokenised apart.
  Rendered encode(const std::vector<Message>& messages, bool add_generation_prompt) const override {
    Rendered out;
    const auto append = [&out](const std::vector<std::int64_t>& ids, bool from_assistant) {
      out.ids.insert(out.ids.end(), ids.begin(), ids.end());
      out.from_assistant.insert(out.from_assistant.end(), ids.size(), from_assistant);
    };
    for (const auto& turn : turns(messages)) {
      append({begin_id_}, false);
      const std::string header = turn.role + "\n";
      const auto ids = tokenizer_->encode(header + turn.body);
      const bool from_assistant = turn.role == "assistant";
      const auto body = ids.begin() + (from_assistant ? num_header_tokens(ids, header.size()) : 0);
      append({ids.begin(), body}, false);
      append({body, ids.end()}, from_assistant);
      append({end_id_}, from_assistant);
      append(newline_ids_, false);
    }
    if (add_generation_prompt) {
      append({begin_id_}, false);
      append(tokenizer_->encode("assistant\n"), false);
    }
    return out;
  }

  std::int64_t end_of_turn_id() const override { return end_id_; }

 private:
  std::int64_t special_id(const char* token, const std::string& model) const {
    for (const auto& added : tokenizer_->spec().added_tokens) {
      if (added.content != token) continue;
      if (!added.lstrip && !added.rstrip && !added.single_word && !added.normalized) {
        return added.id;
      }
    }
    throw FileError(model + ": the chat template needs '" + token +
                    "', which is no special token of the tokenizer");
  }

  std::vector<Turn> turns(const std::vector<Message>& messages) const {
    if (messages.empty()) throw configs::ConfigError("messages: expected one or more, found none");
    std::vector<Turn> turns;
    if (style_.kind == ChatMlStyle::Kind::Plain) {
      for (const auto& message : messages) turns.push_back({message.role, message.content});
    } else {
      check_roles(messages);
      const bool thinks = style_.kind == ChatMlStyle::Kind::Thinking;
      turns = thinks ? thinking_turns(messages) : tool_turns(messages);
    }
    if (style_.default_system && messages[0].role != "system") {
      turns.insert(turns.begin(), {"system", *style_.default_system});
    }
    return turns;
  }

  // Tokens of the header alone. One that reaches from it into the body ("\n\n") belongs to the
  // body, as in transformers' masks.
  std::ptrdiff_t num_header_tokens(const std::vector<std::int64_t>& ids,
                                   std::size_t header_bytes) const {
    std::size_t end = 0;
    std::ptrdiff_t count = 0;
    for (const auto id : ids) {
      end += tokenizer_->token_bytes(id).size();
      if (end > header_bytes) break;
      ++count;
    }
    return count;
  }

  ChatMlStyle style_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::int64_t begin_id_, end_id_;
  std::vector<std::int64_t> newline_ids_;
};

}  // namespace

std::shared_ptr<const ChatTemplate> make_chat_template(const std::string& jinja,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       const std::string& model) {
  if (jinja.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw FileError(model +
                    ": the model has no chat template, as base models have none: take its instruct "
                    "variant, or data of format text or prompt_completion");
  }
  auto style = recognise_chat_template(jinja);
  if (!style) {
    throw FileError(model + ": the chat template is none of those known here (ChatML as of " +
                    "SmolLM2, Qwen2, Qwen2.5 and Qwen3); it begins with '" + jinja.substr(0, 60) +
                    "'; data of format prompt_completion or text works without one");
  }
  return std::make_shared<ChatMl>(std::move(*style), std::move(tokenizer), model);
}

}  // namespace tailor::models::text
