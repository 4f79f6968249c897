#include "trainer/data/rows.hpp"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "trainer/data/line_reader.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;

namespace {

/// A file that lives as long as the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content)
      : path_(std::filesystem::temp_directory_path() /
              ("tailor-rows-" + std::to_string(getpid()) + ".jsonl")) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string problem(const std::string& json, DataFormat format) {
  try {
    parse_row(json, format, "a.jsonl", 7);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

std::string file_problem(const std::string& content, DataFormat format = DataFormat::Text) {
  const TemporaryFile file(content);
  try {
    read_rows({file.path(), format, "job.yaml:3:5: data.train[0]"});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("every format reads its row and ignores other columns", "[data]") {
  const auto chat = parse_row(
      R"({"id": 3, "messages": [{"role": "user", "content": "hi", "name": "x"},
                                {"role": "assistant", "content": "\ud83d\ude00"}]})",
      DataFormat::Messages, "f", 4);
  REQUIRE(chat.messages.size() == 2);
  CHECK(chat.messages[0].role == "user");
  CHECK(chat.messages[1].content == "\xF0\x9F\x98\x80");
  CHECK(chat.line == 4);

  const auto pair = parse_row(R"({"prompt": "1+1=", "completion": "2", "meta": {"a": [1]}})",
                              DataFormat::PromptCompletion, "f", 1);
  CHECK(pair.prompt == "1+1=");
  CHECK(pair.completion == "2");
  CHECK(parse_row(R"({"text": "a\u0000b"})", DataFormat::Text, "f", 1).text ==
        std::string("a\0b", 3));

  const auto tokens =
      parse_row(R"({"input_ids": [5, 6], "labels": [-100, 6]})", DataFormat::Tokens, "f", 1);
  CHECK(tokens.tokens.ids == std::vector<std::int64_t>{5, 6});
  CHECK(tokens.tokens.labels == std::vector<std::int64_t>{kIgnore, 6});
}

TEST_CASE("a wrong row is refused with file, line and reason", "[data]") {
  struct Wrong {
    DataFormat format;
    const char* json;
    const char* reason;
  };
  const auto m = DataFormat::Messages;
  const auto p = DataFormat::PromptCompletion;
  const auto t = DataFormat::Tokens;
  const auto wrong = GENERATE_COPY(values<Wrong>({
      {m, R"({"conversations": []})", "found conversations (ShareGPT): rename it to messages"},
      {m, R"({"text": "x"})", "expected the key messages, found a row of format text"},
      {m, R"({"a": 1, "b": 2})", "expected the key messages, found the keys a, b"},
      {m, "{}", "expected the key messages, found an empty object"},
      {m, R"({"messages": []})", "messages: expected a list of messages, found an empty list"},
      {m, R"({"messages": "hi"})", "messages: expected a list of messages, found text"},
      {m, R"({"messages": ["hi"]})", "messages[0]: expected a mapping of role and content"},
      {m, R"({"messages": [{"role": "user"}]})", "messages[0]: expected the key content"},
      {m, R"({"messages": [{"role": "human", "content": ""}]})",
       "messages[0].role: expected system, user, assistant or tool, found \"human\""},
      {m, R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})",
       "messages[0].content: expected text, found a list"},
      {m, R"({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]})",
       "messages[0].tool_calls: tool calls are not supported"},
      {m, R"({"tools": [{}], "messages": [{"role": "user", "content": ""}]})",
       "tools: tool definitions are not supported"},
      {p, R"({"instruction": "a", "output": "b"})", "(Alpaca): write prompt and completion"},
      {p, R"({"prompt": "a"})", "expected the key completion, found the keys prompt"},
      {p, R"({"prompt": [{"role": "user", "content": "a"}], "completion": "b"})",
       "prompt: expected text, found a list of messages; put all turns into messages"},
      {p, R"({"prompt": "a", "completion": null})", "completion: expected text, found null"},
      {t, R"({"input_ids": [1, 2], "labels": [1]})", "labels: expected 2 entries"},
      {t, R"({"input_ids": [1]})", "expected the key labels"},
      {t, R"({"input_ids": [], "labels": []})", "input_ids: expected a list of token ids"},
      {t, R"({"input_ids": [1, -2], "labels": [1, -2]})", "input_ids[1]: expected a token id"},
      {t, R"({"input_ids": [1.5], "labels": [1]})", "input_ids[0]: expected a token id, found 1.5"},
      {t, R"({"input_ids": [18446744073709551615], "labels": [-1]})", "input_ids[0]: expected"},
      {t, R"({"input_ids": [1, 2], "labels": [2, 3]})",
       "labels[0]: expected -100 or the token's id 1 (labels are not shifted), found 2"},
      {DataFormat::Text, R"({"text": "a", "text": "b"})", "the key \"text\" stands twice"},
      {DataFormat::Text, R"(["text"])", "expected an object, found a list"},
      {DataFormat::Text, R"({"text": "a)", "no valid JSON: column 12"},
      {DataFormat::Text, R"({"text": )", "a row stands on one line"},
      {DataFormat::Text, "{\"text\": \"\xFF\"}", "ill-formed UTF-8"},
      {DataFormat::Text, R"({"text": "\ud83d"})", "no valid JSON"},
      {DataFormat::Text, R"({"text": 12})", "text: expected text, found 12"},
  }));
  CAPTURE(wrong.json);
  const auto found = problem(wrong.json, wrong.format);
  CHECK_THAT(found, Catch::Matchers::StartsWith("a.jsonl:7: ") && Contains(wrong.reason));
  CHECK(found.find('\xFF') == std::string::npos);
}

TEST_CASE("nesting without end is refused, not followed", "[data]") {
  const std::string deep(1'000'000, '[');
  CHECK_THAT(problem("{\"text\": " + deep, DataFormat::Text), Contains("nested deeper than 64"));
  std::string inside =
      "{\"text\": \"a\", \"extra\": " + std::string(40, '[') + std::string(40, ']') + "}";
  CHECK(problem(inside, DataFormat::Text).empty());
}

TEST_CASE("a file is read through byte order mark, CRLF and blank lines", "[data]") {
  const TemporaryFile file("\xEF\xBB\xBF{\"text\": \"a\"}\r\n\r\n  \n{\"text\": \"b\"}");
  const auto rows = read_rows({file.path(), DataFormat::Text, ""});
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].text == "a");
  CHECK(rows[0].line == 1);
  CHECK(rows[1].text == "b");
  CHECK(rows[1].line == 4);
}

TEST_CASE("wrong rows of a file are reported together, the first 20 of them", "[data]") {
  std::string content = "{\"text\": \"good\"}\n";
  for (int i = 0; i < 25; ++i) content += "{\"text\": " + std::to_string(i) + "}\n";
  const auto found = file_problem(content);
  CHECK_THAT(found, Contains(".jsonl:2: text: expected text, found 0\n"));
  CHECK_THAT(found, Contains(".jsonl:21: ") && !Contains(".jsonl:22: "));
  CHECK_THAT(found, Contains("\n... and 5 more\njob.yaml:3:5: data.train[0]: names "));
}

TEST_CASE("rows that are wrong for one reason are one problem", "[data]") {
  std::string content;
  for (int i = 0; i < 40; ++i) content += "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
  const auto all = file_problem(content);
  CHECK_THAT(all, Contains(".jsonl:1: expected the key text, found a row of format "
                           "prompt_completion (and so all 40 rows)\n"
                           "  a row begins {\"prompt\": \"a\", \"completion\": \"b\"}\n"
                           "  job.yaml:3:5: data.train[0]: its format is prompt_completion, not "
                           "text; write format: prompt_completion"));
  CHECK(std::count(all.begin(), all.end(), '\n') == 2);

  const auto most = file_problem("{\"text\": \"a\"}\n" + content);
  CHECK_THAT(most, Contains(".jsonl:2: ") && Contains("(and so 40 of 41 rows)"));

  std::string good;
  for (int i = 0; i < 60; ++i) good += "{\"text\": \"a\"}\n";
  const auto some = file_problem(good + content);
  CHECK_THAT(some,
             Contains("prompt_completion (and so lines 61, 62, 63, 64, 65, 66, 67, 68 ...: 40 "
                      "rows)\njob.yaml:3:5: data.train[0]: names "));
}

TEST_CASE("a row that a message shows cannot steer the terminal", "[data]") {
  const auto found = file_problem("{\"a\": \"" + std::string(200, 'x') + "\x7f\"}\n");
  CHECK_THAT(found, Contains("x ...\n"));
  CHECK_THAT(file_problem("{\"a\":\t\"\x7f\"}\n"), Contains("{\"a\":?\"?\"}"));
}

TEST_CASE("a file that is no JSONL file is named as what it is", "[data]") {
  CHECK_THAT(file_problem(""), Catch::Matchers::StartsWith("job.yaml:3:5: data.train[0]: ") &&
                                   Contains("the file holds no rows"));
  CHECK_THAT(file_problem("\n \n"), Contains("the file holds no rows"));
  CHECK_THAT(file_problem("[\n{\"text\": \"a\"}\n]\n"), Contains("found a JSON list (jq -c"));
  CHECK_THAT(file_problem("{\n \"text\": \"a\"\n}\n"), Contains("an object over several lines"));
  CHECK_THAT(file_problem("PAR1abc"), Contains("a Parquet file"));
  CHECK_THAT(file_problem("\x1F\x8B\x08"), Contains("a gzip file"));
  CHECK_THAT(file_problem("\xFF\xFE{"), Contains("UTF-16"));
  CHECK_THROWS_WITH(
      read_rows({"/nowhere/x.jsonl", DataFormat::Text, "job.yaml:3:5: data.train[0]"}),
      "job.yaml:3:5: data.train[0]: /nowhere/x.jsonl: no such file");
  CHECK_THROWS_WITH(read_rows({std::filesystem::temp_directory_path(), DataFormat::Text, ""}),
                    Contains("expected a file, found a directory"));
  CHECK_THROWS_WITH(read_rows({"/dev/zero", DataFormat::Text, ""}),
                    Contains("/dev/zero: expected a file, found a device"));
}

TEST_CASE("a line that is too long is passed over without being held", "[data]") {
  const TemporaryFile file("short\n" + std::string(1'000'000, 'x') + "\nafter\n\nend");
  LineReader lines(file.path(), '\n', 1000);
  std::string line;
  REQUIRE(lines.next(line));
  CHECK(line == "short");
  REQUIRE(lines.next(line));
  CHECK(lines.too_long());
  CHECK(line.empty());
  CHECK(line.capacity() < 100'000);
  REQUIRE(lines.next(line));
  CHECK(line == "after");
  CHECK_FALSE(lines.too_long());
  REQUIRE(lines.next(line));
  CHECK(line.empty());
  REQUIRE(lines.next(line));
  CHECK(line == "end");
  CHECK(lines.line_number() == 5);
  CHECK_FALSE(lines.next(line));
}

TEST_CASE("strings between zero bytes come as they are", "[data]") {
  const TemporaryFile file(
      std::string("\xEF\xBB\xBF"
                  "a\r\0\0b\n\0",
                  10));
  LineReader strings(file.path(), '\0');
  std::string text;
  for (const std::string expected : {"\xEF\xBB\xBF"
                                     "a\r",
                                     "", "b\n"}) {
    REQUIRE(strings.next(text));
    CHECK(text == expected);
  }
  CHECK_FALSE(strings.next(text));
}

TEST_CASE("lines are whole where they cross the reader's blocks", "[data]") {
  std::string content;
  std::vector<std::string> expected;
  for (int i = 0; i < 20'000; ++i) {
    expected.push_back(std::string(static_cast<std::size_t>(i * 37 % 91), 'a') + std::to_string(i));
    content += expected.back() + "\n";
  }
  const TemporaryFile file(content);
  LineReader lines(file.path());
  std::string line;
  bool equal = true;
  for (const auto& want : expected) equal = lines.next(line) && line == want && equal;
  CHECK(equal);
  CHECK_FALSE(lines.next(line));
}
