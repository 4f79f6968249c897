#include <catch2/catch.hpp>

#include "tests/models/text_golden.hpp"

namespace tailor::models::text {
namespace {

// One token a byte.
std::shared_ptr<const Tokenizer> byte_tokenizer() { return golden_tokenizer("smollm"); }

std::int64_t id_of(const Tokenizer& tokenizer, unsigned char byte) {
  for (std::int64_t id = 0; id < tokenizer.size(); ++id) {
    if (tokenizer.token_bytes(id) == std::string(1, static_cast<char>(byte))) return id;
  }
  throw std::logic_error("every byte has a token");
}

std::vector<std::string> pushed(const std::string& bytes) {
  const auto tokenizer = byte_tokenizer();
  StreamDecoder decoder(tokenizer, false);
  std::vector<std::string> parts;
  for (const char byte : bytes) {
    parts.push_back(decoder.push(id_of(*tokenizer, static_cast<unsigned char>(byte))));
  }
  parts.push_back(decoder.flush());
  return parts;
}

using Parts = std::vector<std::string>;
const std::string kBad = "\xEF\xBF\xBD";

}  // namespace

TEST_CASE("a character appears when its last byte does") {
  CHECK(pushed("\xF0\x9F\x98\x80x") == Parts{"", "", "", "\xF0\x9F\x98\x80", "x", ""});
  CHECK(pushed("\xC3\xA9") == Parts{"", "\xC3\xA9", ""});
}

TEST_CASE("what cannot become a character appears as U+FFFD at once") {
  CHECK(pushed("\x80\xFFz") == Parts{kBad, kBad, "z", ""});
  CHECK(pushed("\xE2\x82\xE2\x82\xAC") == Parts{"", "", kBad, "", "\xE2\x82\xAC", ""});
  CHECK(pushed("\xE2\x28") == Parts{"", kBad + "(", ""});
}

TEST_CASE("flush gives what never completed") {
  CHECK(pushed("a\xF0\x9F") == Parts{"a", "", "", kBad});
}

TEST_CASE("the parts together are the decoded text") {
  const std::string name = GENERATE("smollm", "qwen2", "mixed");
  const bool skip = GENERATE(false, true);
  const auto tokenizer = golden_tokenizer(name);
  const auto golden = golden_json(name + ".cases.json");
  for (const auto& expected : golden["cases"]) {
    const auto ids = expected["with_special"].get<std::vector<std::int64_t>>();
    StreamDecoder decoder(tokenizer, skip);
    std::string text;
    for (const auto id : ids) text += decoder.push(id);
    text += decoder.flush();
    CHECK(text == expected[skip ? "plain" : "decoded"]);
  }
}

}  // namespace tailor::models::text
