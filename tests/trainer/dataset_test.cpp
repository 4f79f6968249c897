#include "trainer/data/dataset.hpp"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;
using tailor::models::text::ChatTemplate;
using tailor::models::text::Message;
using tailor::models::text::Rendered;
using tailor::models::text::Tokenizer;
using tailor::models::text::TokenizerSpec;
using Ids = std::vector<std::int64_t>;

namespace {

constexpr std::int64_t kBos = 256, kEos = 257, kEndOfTurn = 258;

/// A token a byte; "\x01" and "\x02" are how a text writes BOS and EOS themselves.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(bool with_bos = true, bool with_eos = true) {
    if (with_bos) spec_.prefix_ids = {kBos};
    if (with_eos) spec_.eos_id = kEos;
  }
  Ids encode(std::string_view text, bool add_special_tokens) const override {
    Ids ids;
    if (add_special_tokens) ids = spec_.prefix_ids;
    for (const char c : text)
      ids.push_back(c == '\x01' ? kBos : c == '\x02' ? kEos : static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(const Ids& ids, bool) const override {
    std::string text;
    for (const auto id : ids) text += token_text(id);
    return text;
  }
  std::string token_bytes(std::int64_t id) const override { return token_text(id); }
  std::string token_text(std::int64_t id) const override {
    if (id == kBos) return "<bos>";
    if (id == kEos) return "<eos>";
    if (id == kEndOfTurn) return "<end>";
    return std::string(1, static_cast<char>(id));
  }
  bool is_special(std::int64_t id) const override { return id >= kBos; }
  std::optional<std::int64_t> find(std::string_view) const override { return {}; }
  std::int64_t size() const override { return kEndOfTurn + 1; }
  const TokenizerSpec& spec() const override { return spec_; }

 private:
  TokenizerSpec spec_;
};

/// role ":" content <end> a message; the content and the end of an assistant's turn are the
/// model's.
class PlainTemplate : public ChatTemplate {
 public:
  std::string render(const std::vector<Message>&, bool) const override { return {}; }
  Rendered encode(const std::vector<Message>& messages, bool) const override {
    Rendered rendered;
    const auto push = [&](std::int64_t id, bool assistant) {
      rendered.ids.push_back(id);
      rendered.from_assistant.push_back(assistant);
    };
    for (const auto& message : messages) {
      const bool assistant = message.role == "assistant";
      for (const char c : message.role.substr(0, 1) + ":") push(c, false);
      for (const char c : message.content) push(c, assistant);
      push(kEndOfTurn, assistant);
    }
    return rendered;
  }
  std::int64_t end_of_turn_id() const override { return kEndOfTurn; }
};

Tokenization plain() {
  return {std::make_shared<ByteTokenizer>(), std::make_shared<PlainTemplate>(), true, true};
}

Example tokenized(const std::string& json, DataFormat format, const Tokenization& how) {
  return tokenize(parse_row(json, format, "f", 1), format, how);
}

class DataFileOnDisk {
 public:
  DataFileOnDisk(const std::string& content, DataFormat format)
      : file_{
            std::filesystem::temp_directory_path() / ("tailor-dataset-" + std::to_string(getpid()) +
                                                      "-" + std::to_string(++count_) + ".jsonl"),
            format, "job.yaml:3:5: data.train[0]"} {
    std::ofstream(file_.path, std::ios::binary) << content;
  }
  ~DataFileOnDisk() { std::filesystem::remove(file_.path); }
  const DataFile& file() const { return file_; }

 private:
  static inline int count_ = 0;
  DataFile file_;
};

DataConfig config_of(std::int64_t max_length, OverLength over = OverLength::Truncate) {
  DataConfig config;
  config.max_length = max_length;
  config.over_length = over;
  return config;
}

}  // namespace

TEST_CASE("only the assistant's turns are supervised, with their end", "[data]") {
  const auto row = R"({"messages": [{"role": "user", "content": "a"},
                                    {"role": "assistant", "content": "bc"},
                                    {"role": "user", "content": "d"},
                                    {"role": "assistant", "content": ""}]})";
  auto how = plain();
  auto example = tokenized(row, DataFormat::Messages, how);
  CHECK(example.ids == Ids{'u', ':', 'a', kEndOfTurn, 'a', ':', 'b', 'c', kEndOfTurn, 'u', ':', 'd',
                           kEndOfTurn, 'a', ':', kEndOfTurn});
  CHECK(example.num_supervised() == 4);
  CHECK(render_supervision(example, *how.tokenizer) == "u:a<end>a:[[bc<end>]]u:d<end>a:[[<end>]]");

  how.assistant_only_loss = false;
  example = tokenized(row, DataFormat::Messages, how);
  CHECK(example.num_supervised() == static_cast<std::int64_t>(example.ids.size()) - 1);
  CHECK(example.labels[0] == kIgnore);
}

TEST_CASE("a completion is supervised with the end of text, its prompt is not", "[data]") {
  auto how = plain();
  const auto row = R"({"prompt": "1+", "completion": "2"})";
  auto example = tokenized(row, DataFormat::PromptCompletion, how);
  CHECK(example.ids == Ids{kBos, '1', '+', '2', kEos});
  CHECK(example.labels == Ids{kIgnore, kIgnore, kIgnore, '2', kEos});

  how.completion_only_loss = false;
  CHECK(tokenized(row, DataFormat::PromptCompletion, how).labels ==
        Ids{kIgnore, '1', '+', '2', kEos});
  // An empty prompt and an empty completion still learn to begin and to stop.
  how.completion_only_loss = true;
  CHECK(
      tokenized(R"({"prompt": "", "completion": ""})", DataFormat::PromptCompletion, how).labels ==
      Ids{kIgnore, kEos});
}

TEST_CASE("a text is supervised whole and holds the special tokens once", "[data]") {
  const auto how = plain();
  CHECK(tokenized(R"({"text": "ab"})", DataFormat::Text, how).ids == Ids{kBos, 'a', 'b', kEos});
  CHECK(tokenized(R"({"text": "ab"})", DataFormat::Text, how).labels ==
        Ids{kIgnore, 'a', 'b', kEos});
  CHECK(tokenized("{\"text\": \"\\u0001ab\\u0002\"}", DataFormat::Text, how).ids ==
        Ids{kBos, 'a', 'b', kEos});
  CHECK(tokenized("{\"prompt\": \"\\u0001a\", \"completion\": \"b\\u0002\"}",
                  DataFormat::PromptCompletion, how)
            .ids == Ids{kBos, 'a', 'b', kEos});
  auto bare = how;
  bare.tokenizer = std::make_shared<ByteTokenizer>(/*with_bos=*/false);
  CHECK(tokenized(R"({"text": "ab"})", DataFormat::Text, bare).ids == Ids{'a', 'b', kEos});
  CHECK(tokenized(R"({"text": ""})", DataFormat::Text, bare).ids == Ids{kEos});
}

TEST_CASE("rows of tokens come as they are, within the vocabulary", "[data]") {
  const auto how = plain();
  const auto example =
      tokenized(R"({"input_ids": [9, 8, 7], "labels": [9, -100, 7]})", DataFormat::Tokens, how);
  CHECK(example.ids == Ids{9, 8, 7});
  CHECK(example.labels == Ids{kIgnore, kIgnore, 7});
  CHECK_THROWS_WITH(
      tokenized(R"({"input_ids": [9, 259], "labels": [9, 259]})", DataFormat::Tokens, how),
      Contains("input_ids[1]: expected a token id below 259") && Contains("found 259"));
}

TEST_CASE("rows that are too long are cut, left out or refused", "[data]") {
  const DataFileOnDisk data(
      "{\"prompt\": \"abcdef\", \"completion\": \"g\"}\n"
      "{\"prompt\": \"a\", \"completion\": \"bcdefg\"}\n"
      "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
      DataFormat::PromptCompletion);
  const auto how = plain();
  const auto cut = load_dataset({data.file()}, config_of(5), how);
  REQUIRE(cut.examples.size() == 2);
  CHECK(cut.examples[0].ids == Ids{kBos, 'a', 'b', 'c', 'd'});
  CHECK(cut.num_truncated == 2);
  CHECK(cut.num_unsupervised == 1);
  CHECK(cut.num_dropped == 0);
  CHECK(cut.num_tokens == 9);
  CHECK(cut.num_supervised == 5);
  CHECK(describe(cut) ==
        "2 rows, 9 tokens, 5 of them supervised; 2 rows cut at max_length; 1 rows without a "
        "supervised token left out");

  const auto dropped = load_dataset({data.file()}, config_of(5, OverLength::Drop), how);
  CHECK(dropped.examples.size() == 1);
  CHECK(dropped.num_dropped == 2);
  CHECK_THROWS_WITH(load_dataset({data.file()}, config_of(5, OverLength::Raise), how),
                    Contains(".jsonl:1: the row has 9 tokens, more than max_length 5") &&
                        Contains("2 of 3 rows"));
}

TEST_CASE("problems of all files are told together", "[data]") {
  const DataFileOnDisk text("{\"text\": 1}\n", DataFormat::Text);
  const DataFileOnDisk tokens("{\"input_ids\": [1, 999], \"labels\": [1, 999]}\n",
                              DataFormat::Tokens);
  const DataFile missing{"/nowhere.jsonl", DataFormat::Text, "job.yaml:4:5: data.train[1]"};
  CHECK_THROWS_WITH(load_dataset({text.file(), missing, tokens.file()}, config_of(8), plain()),
                    Contains(text.file().path.string() + ":1: text: expected text, found 1\n") &&
                        Contains("job.yaml:4:5: data.train[1]: /nowhere.jsonl: no such file\n") &&
                        Contains(tokens.file().path.string() + ":1: input_ids[1]"));
}

TEST_CASE("data without a supervised token is an error that shows a sample", "[data]") {
  const DataFileOnDisk data(R"({"messages": [{"role": "user", "content": "hello"}]})",
                            DataFormat::Messages);
  CHECK_THROWS_WITH(
      load_dataset({data.file()}, config_of(64), plain()),
      Contains(
          "no row is left to learn from or to evaluate: of 1 rows 0 are longer than max_length "
          "64 and 1 have no supervised token") &&
          Contains('\n' + data.file().path.string() + ":1: the first row begins") &&
          Contains("\nu:hello<end>"));
}

TEST_CASE("what a format needs of the model is asked for before rows are read", "[data]") {
  const DataFileOnDisk text("{\"text\": 1}\n", DataFormat::Text);
  auto how = plain();
  how.tokenizer = std::make_shared<ByteTokenizer>(true, /*with_eos=*/false);
  how.chat = nullptr;
  CHECK_THROWS_WITH(load_dataset({text.file()}, config_of(8), how),
                    "job.yaml:3:5: data.train[0]: format text needs a tokenizer with an "
                    "end-of-text token (eos_token)");
  const DataFileOnDisk chat("{}", DataFormat::Messages);
  CHECK_THROWS_WITH(load_dataset({chat.file()}, config_of(8), how),
                    Contains("format messages needs a model with a chat template"));
}

// What grows with the square of the rows runs into ctest's limit.
TEST_CASE("thousands of rows load in a moment", "[data]") {
  std::string content;
  for (int i = 0; i < 20'000; ++i)
    content += "{\"id\": " + std::to_string(i) +
               ", \"messages\": [{\"role\": \"user\", \"content\": \"What is 12 times 7?\"}, "
               "{\"role\": \"assistant\", \"content\": \"12 * 7 = 84\"}]}\n";
  const DataFileOnDisk data(content, DataFormat::Messages);
  CHECK(load_dataset({data.file()}, config_of(128), plain()).examples.size() == 20'000);
}
