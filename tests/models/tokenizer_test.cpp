#include "models/text/tokenizer.hpp"

#include <catch2/catch.hpp>
#include <thread>

#include "models/files/file_error.hpp"
#include "tests/models/text_golden.hpp"

namespace tailor::models::text {
namespace {

using Catch::Matchers::Contains;
using Ids = std::vector<std::int64_t>;
using Kind = TokenizerSpec::Split::Kind;

// Letters, a space and a few merges.
TokenizerSpec small_spec() {
  TokenizerSpec spec;
  spec.vocab = {"a", "b", "c", "Ġ", "ab", "bc", "abc", "1", "<s>", "d"};
  spec.merges = {{"b", "c"}, {"a", "b"}, {"a", "bc"}};
  spec.pre_tokenizer = {{Kind::ByteLevel}};
  return spec;
}

TokenizerSpec with_added(AddedToken token) {
  auto spec = small_spec();
  token.id = 10;
  spec.added_tokens = {std::move(token)};
  return spec;
}

}  // namespace

TEST_CASE("ids and texts equal those of HF tokenizers") {
  const std::string name = GENERATE("smollm", "llama3", "qwen2", "mixed");
  const auto tokenizer = golden_tokenizer(name);
  const auto golden = golden_json(name + ".cases.json");
  REQUIRE(golden["cases"].size() >= 100);
  for (const auto& expected : golden["cases"]) {
    const auto text = bytes_of_hex(expected["bytes"]);
    INFO(name << " " << text);
    CHECK(tokenizer->encode(text) == expected["ids"].get<Ids>());
    const auto ids = tokenizer->encode(text, /*add_special_tokens=*/true);
    CHECK(ids == expected["with_special"].get<Ids>());
    CHECK(tokenizer->decode(ids) == expected["decoded"]);
    CHECK(tokenizer->decode(ids, /*skip_special_tokens=*/true) == expected["plain"]);
  }
}

TEST_CASE("merges are taken by rank, then from the left") {
  const auto tokenizer = make_tokenizer(small_spec());
  CHECK(tokenizer->encode("abc") == Ids{6});  // b c before a b
  CHECK(tokenizer->encode("abab") == Ids{4, 4});
  CHECK(tokenizer->encode("aabcc") == Ids{0, 6, 2});
}

TEST_CASE("a byte that the vocabulary lacks has no id, and its neighbours meet") {
  const auto tokenizer = make_tokenizer(small_spec());
  CHECK(tokenizer->encode("azb zz") == Ids{4, 3});
}

TEST_CASE("with ignore_merges a whole word of the vocabulary is taken as it is") {
  auto spec = small_spec();
  spec.vocab.push_back("cab");  // no merge leads there
  CHECK(make_tokenizer(spec)->encode("cab") == Ids{2, 4});
  spec.ignore_merges = true;
  CHECK(make_tokenizer(spec)->encode("cab") == Ids{10});
}

TEST_CASE("an added token splits the text before anything else") {
  const auto tokenizer = make_tokenizer(with_added({0, "bc"}));
  CHECK(tokenizer->encode("abcb") == Ids{0, 10, 1});
  CHECK(tokenizer->find("bc") == 10);
  CHECK(tokenizer->size() == 11);
  CHECK_FALSE(tokenizer->is_special(10));
}

TEST_CASE("of added tokens at one place the longest is found") {
  auto spec = with_added({0, "b"});
  spec.added_tokens.push_back({11, "bcd"});
  const auto tokenizer = make_tokenizer(spec);
  CHECK(tokenizer->encode("bcbcd") == Ids{10, 2, 11});
}

TEST_CASE("lstrip and rstrip take white space of any kind") {
  AddedToken token{0, "d"};
  token.lstrip = token.rstrip = true;
  const auto tokenizer = make_tokenizer(with_added(token));
  CHECK(tokenizer->encode("a \xE3\x80\x80"
                          "d\n b") == Ids{0, 10, 1});
}

TEST_CASE("a single_word token is none inside a word") {
  AddedToken token{0, "bc"};
  token.single_word = true;
  const auto tokenizer = make_tokenizer(with_added(token));
  CHECK(tokenizer->encode("bc abc bcd bc-") == Ids{10, 3, 6, 3, 5, 9, 3, 10});
}

TEST_CASE("a normalised token is found in its composed form") {
  AddedToken token{0, "e\xCC\x81"};  // e and a combining acute
  token.normalized = true;
  auto spec = with_added(token);
  spec.nfc = true;
  const auto tokenizer = make_tokenizer(spec);
  CHECK(tokenizer->encode("\xC3\xA9"
                          "a"
                          "e\xCC\x81") == Ids{10, 0, 10});
}

TEST_CASE("special tokens stand around a text on demand only") {
  auto spec = small_spec();
  spec.prefix_ids = {8};
  spec.suffix_ids = {9, 8};
  const auto tokenizer = make_tokenizer(spec);
  CHECK(tokenizer->encode("a", true) == Ids{8, 0, 9, 8});
  CHECK(tokenizer->encode("", true) == Ids{8, 9, 8});
  CHECK(tokenizer->encode("a") == Ids{0});
  CHECK(tokenizer->encode("").empty());
}

TEST_CASE("an unknown id has no text") {
  const auto tokenizer = golden_tokenizer("smollm");
  CHECK(tokenizer->decode({-1, tokenizer->size(), std::int64_t{1} << 40}).empty());
  CHECK(tokenizer->token_bytes(-5).empty());
  CHECK(tokenizer->token_text(tokenizer->size()).empty());
  CHECK_FALSE(tokenizer->is_special(-1));
  CHECK_FALSE(tokenizer->find("no such token"));
}

TEST_CASE("every ill-formed UTF-8 sequence reads as one U+FFFD a maximal subpart") {
  const auto tokenizer = golden_tokenizer("smollm");
  const auto read = [&](const std::string& bytes) {
    return tokenizer->decode(tokenizer->encode(bytes));
  };
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(read("a\x80z") == "a" + bad + "z");
  CHECK(read("\xF0\x9F\x98z") == bad + "z");       // cut short
  CHECK(read("\xE0\x80\x80") == bad + bad + bad);  // overlong
  CHECK(read("\xED\xA0\x80") == bad + bad + bad);  // a surrogate
  CHECK(read("\xF4\x90\x80\x80") == bad + bad + bad + bad);
  CHECK(read("\xC2") == bad);
}

TEST_CASE("very long words take time in proportion") {
  const auto tokenizer = golden_tokenizer(GENERATE("smollm", "llama3", "qwen2"));
  std::string letters;
  for (std::uint32_t i = 0, x = 1; i < 500'000; ++i) {
    x = x * 1664525 + 1013904223;
    letters.push_back(static_cast<char>('a' + (x >> 24) % 26));
  }
  std::string marks = "a";  // what a composition by exchanging neighbours would sort for minutes
  for (int i = 0; i < 100'000; ++i) marks += "\xCC\x81\xCC\xA3";
  for (const auto& text : {letters, std::string(500'000, 'a'), std::string(500'000, ' '),
                           std::string(500'000, '\n'), std::string(500'000, '!')}) {
    // A quadratic algorithm takes hours: the time limit of the test ends it.
    CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
  }
  CHECK_FALSE(tokenizer->encode(marks).empty());
}

TEST_CASE("threads may share a tokenizer") {
  const auto tokenizer = golden_tokenizer("qwen2");
  const auto golden = golden_json("qwen2.cases.json");
  std::vector<int> num_wrong(3, 0);
  std::vector<std::thread> threads;
  for (auto& wrong : num_wrong) {
    threads.emplace_back([&] {
      for (const auto& expected : golden["cases"]) {
        wrong += tokenizer->encode(bytes_of_hex(expected["bytes"])) != expected["ids"].get<Ids>();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(num_wrong == std::vector<int>(3, 0));
}

TEST_CASE("parts that contradict each other are refused") {
  const auto refuses = [](const TokenizerSpec& spec, const std::string& message) {
    CHECK_THROWS_WITH(make_tokenizer(spec, "model.gguf"),
                      Contains("model.gguf: ") && Contains(message));
  };
  auto spec = small_spec();
  spec.merges.push_back({"a", "zz"});
  refuses(spec, "merge 3 'a zz': token 'zz' is not in the vocabulary");
  spec = small_spec();
  spec.merges.push_back({"c", "a"});
  refuses(spec, "token 'ca'");
  spec = small_spec();
  spec.pre_tokenizer.clear();
  refuses(spec, "ByteLevel");
  spec.pre_tokenizer = {{Kind::ByteLevel}, {Kind::Digits}};
  refuses(spec, "ByteLevel is the last");
  spec = small_spec();
  spec.prefix_ids = {10};
  refuses(spec, "special token id 10");
  refuses(with_added({0, std::string(5000, 'x')}), "at most 4096 bytes");
}

TEST_CASE("an expression that PCRE2 reads otherwise than Oniguruma is refused") {
  const std::string pattern = GENERATE("\\p{N}{1,3}+", "\\bword\\b", "[a-z&&[^b]]", "(?m:.)", "[a",
                                       "(", "\\h", "\\p{L", "[\\P{L}]", "\\");
  auto spec = small_spec();
  spec.pre_tokenizer.insert(spec.pre_tokenizer.begin(), {Kind::Regex, pattern});
  CHECK_THROWS_WITH(make_tokenizer(spec, "f"), Contains("f: pre_tokenizer: regular expression"));
}

TEST_CASE("an expression that backtracks without end is an error, not a hang") {
  auto spec = small_spec();
  spec.pre_tokenizer.insert(spec.pre_tokenizer.begin(), {Kind::Regex, "(a|aa|a+)+$"});
  const auto tokenizer = make_tokenizer(spec, "f");
  CHECK(tokenizer->encode("aaa") == Ids{0, 0, 0});
  CHECK_THROWS_WITH(tokenizer->encode(std::string(60, 'a') + "b"),
                    Contains("60") || Contains("61"));
}

TEST_CASE("an empty match splits, as HF tokenizers does it") {
  auto spec = small_spec();
  spec.pre_tokenizer.insert(spec.pre_tokenizer.begin(), {Kind::Regex, "c*"});
  CHECK(make_tokenizer(spec)->encode("abc") == Ids{0, 1, 2});
}

TEST_CASE("GGUF names of pre-tokenisation give what the model's own file says") {
  const auto same = [](const std::string& name, const std::string& golden) {
    const auto own = golden_tokenizer(golden)->spec();
    auto named = own;
    named.pre_tokenizer = pre_tokenizer_named(name, "model.gguf");
    CHECK(write_tokenizer_json(named) == write_tokenizer_json(own));
  };
  same("smollm", "smollm");
  same("llama-bpe", "llama3");
  same("qwen2", "qwen2");
  for (const auto* name : {"gpt-2", "default", "refact"}) {
    CHECK(pre_tokenizer_named(name, "model.gguf").back().kind == Kind::ByteLevel);
  }
  CHECK_THROWS_WITH(pre_tokenizer_named("poro-chat", "model.gguf"),
                    Contains("model.gguf: tokenizer.ggml.pre") && Contains("'poro-chat'"));
}

}  // namespace tailor::models::text
