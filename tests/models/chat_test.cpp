#include "models/text/chat.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"
#include "tests/models/text_golden.hpp"

namespace tailor::models::text {
namespace {

using Catch::Matchers::Contains;
using Ids = std::vector<std::int64_t>;

std::vector<Message> messages_of(const nlohmann::json& list) {
  std::vector<Message> messages;
  for (const auto& message : list) messages.push_back({message["role"], message["content"]});
  return messages;
}

std::string source_named(const std::string& name) {
  const auto golden = golden_json("chat.json");
  for (const auto& entry : golden["templates"]) {
    if (entry["name"] == name) return entry["template"];
  }
  throw std::logic_error("no template " + name);
}

std::shared_ptr<const ChatTemplate> chat_named(const std::string& name) {
  return make_chat_template(source_named(name), golden_tokenizer("smollm"), "m");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// The text of the tokens that the model is trained on.
std::string supervised(const ChatTemplate& chat, const std::vector<Message>& messages) {
  const auto rendered = chat.encode(messages, false);
  REQUIRE(rendered.ids.size() == rendered.from_assistant.size());
  Ids ids;
  for (std::size_t i = 0; i < rendered.ids.size(); ++i) {
    if (rendered.from_assistant[i]) ids.push_back(rendered.ids[i]);
  }
  return golden_tokenizer("smollm")->decode(ids);
}

}  // namespace

TEST_CASE("rendering equals transformers' apply_chat_template") {
  const auto tokenizer = golden_tokenizer("smollm");
  const auto golden = golden_json("chat.json");
  REQUIRE(golden["templates"].size() == 8);
  int num_masks = 0;
  for (const auto& entry : golden["templates"]) {
    const auto chat = make_chat_template(entry["template"], tokenizer, "m");
    for (const auto& expected : entry["cases"]) {
      const auto messages = messages_of(expected["messages"]);
      INFO(entry["name"] << " " << expected["text"]);
      CHECK(chat->render(messages, false) == expected["text"]);
      CHECK(chat->render(messages, true) == expected["prompt"]);
      const auto rendered = chat->encode(messages, false);
      CHECK(rendered.ids == expected["ids"].get<Ids>());
      CHECK(chat->encode(messages, true).ids == tokenizer->encode(std::string(expected["prompt"])));
      if (!expected.contains("mask")) continue;
      ++num_masks;
      const auto mask = expected["mask"].get<std::vector<int>>();
      CHECK(std::vector<int>(rendered.from_assistant.begin(), rendered.from_assistant.end()) ==
            mask);
    }
  }
  CHECK(num_masks == 11);
}

TEST_CASE("the mask covers content and end of the assistant's turns") {
  CHECK(supervised(*chat_named("SmolLM2"),
                   {{"user", "hi"}, {"assistant", "yes"}, {"user", "b"}, {"assistant", ""}}) ==
        "yes<|im_end|><|im_end|>");
  CHECK(supervised(*chat_named("Qwen3"),
                   {{"user", "q"}, {"assistant", "<think>\nwhy\n</think>\n\nso"}}) ==
        "<think>\nwhy\n</think>\n\nso<|im_end|>");
  CHECK(supervised(*chat_named("Qwen2.5"), {{"user", "q"}, {"tool", "assistant"}}).empty());
}

TEST_CASE("a generation prompt is not supervised") {
  const auto rendered = chat_named("SmolLM2")->encode({{"user", "hi"}}, true);
  CHECK(std::count(rendered.from_assistant.begin(), rendered.from_assistant.end(), true) == 0);
  CHECK(chat_named("SmolLM2")->end_of_turn_id() == golden_tokenizer("smollm")->find("<|im_end|>"));
}

TEST_CASE("a message's tokens are the same whatever follows") {
  const auto chat = chat_named("Qwen2.5");
  const std::vector<Message> messages{
      {"user", "a \n"}, {"assistant", "\n b"}, {"user", "  c"}, {"assistant", "d"}};
  const auto all = chat->encode(messages, false).ids;
  for (std::size_t count = 1; count < messages.size(); ++count) {
    const auto part =
        chat->encode({messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count)},
                     false)
            .ids;
    CHECK(Ids(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(part.size())) == part);
  }
}

TEST_CASE("spelling does not matter to recognition, and the default message is the source's") {
  const auto tokenizer = golden_tokenizer("smollm");
  auto source = source_named("SmolLM2");
  source = replaced(source, "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
                    "It\\'s [\\'x\\'] a \\\\ test");
  source = replaced(source, "message['role'] + '", "message.role  +  '");
  source = replaced(source, "{% endfor %}", "{# a comment #}{%- endfor -%}\n");
  source = replaced(source, "{% endif %}", "{% endif %}\n");  // trim_blocks takes the new line
  const auto chat = make_chat_template(source, tokenizer, "m");
  CHECK(chat->render({{"user", "x"}}, false) ==
        "<|im_start|>system\nIt's ['x'] a \\ test<|im_end|>\n<|im_start|>user\nx<|im_end|>\n");
}

TEST_CASE("a template that renders anything else is refused") {
  const auto tokenizer = golden_tokenizer("smollm");
  const auto refuses = [&](const std::string& source) {
    INFO(source);
    CHECK_THROWS_WITH(make_chat_template(source, tokenizer, "model"),
                      Contains("model: the chat template is none"));
  };
  const auto source = source_named("SmolLM2");
  refuses("{{ messages }}");
  refuses("{{ 'no end");
  refuses("{% if");
  refuses(replaced(source, "'<|im_end|>' + '\n'", "'<|im_end|>'"));
  refuses(replaced(source, "{% endfor %}", "\n\n{% endfor %}"));
  refuses(replaced(source, "{{'<|im_start|>'", "\n\n{{'<|im_start|>'"));
  refuses(replaced(source_named("Qwen3"), "lstrip", "strip"));
  refuses(replaced(source_named("Qwen2.5"), "You are Qwen", "You are Qwem"));
}

TEST_CASE("errors say what to do") {
  CHECK_THROWS_WITH(
      make_chat_template(" \n", golden_tokenizer("smollm"), "model"),
      Contains("model: the model has no chat template") && Contains("prompt_completion"));
  TokenizerSpec bare;
  bare.vocab = {"a"};
  bare.pre_tokenizer = {{TokenizerSpec::Split::Kind::ByteLevel}};
  CHECK_THROWS_WITH(make_chat_template(source_named("SmolLM2"), make_tokenizer(bare), "model"),
                    Contains("<|im_start|>"));
  const auto chat = chat_named("Qwen2.5");
  CHECK_THROWS_AS(chat->render({}, true), configs::ConfigError);
  CHECK_THROWS_WITH(chat->render({{"user", "a"}, {"bot", "b"}}, true),
                    Contains("messages[1].role") && Contains("'bot'"));
}

}  // namespace tailor::models::text
