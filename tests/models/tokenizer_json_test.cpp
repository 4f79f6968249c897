#include <catch2/catch.hpp>

#include "models/files/file_error.hpp"
#include "tests/models/text_golden.hpp"

namespace tailor::models::text {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;
using Ids = std::vector<std::int64_t>;

// A small whole document; a merge patch (RFC 7386) makes the variants.
json document(const std::string& patch = "{}") {
  auto base = json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": false,
                      "lstrip": false, "rstrip": false, "single_word": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"]}
  })");
  base.merge_patch(json::parse(patch));
  return base;
}

TokenizerSpec parse(const json& value) { return parse_tokenizer_json(value.dump(), "t.json"); }

}  // namespace

TEST_CASE("a written tokenizer.json reads back as the same tokenizer") {
  const std::string name = GENERATE("smollm", "llama3", "qwen2", "mixed");
  const auto spec = parse_tokenizer_json(golden_text(name + ".json"), name);
  const auto text = write_tokenizer_json(spec);
  const auto again = parse_tokenizer_json(text, "again");
  CHECK(again.vocab == spec.vocab);
  CHECK(again.merges == spec.merges);
  CHECK(again.prefix_ids == spec.prefix_ids);
  CHECK(again.suffix_ids == spec.suffix_ids);
  CHECK(write_tokenizer_json(again) == text);
  // The same document as HF tokenizers writes, but for the post-processor's bookkeeping of offsets.
  auto ours = json::parse(text), theirs = json::parse(golden_text(name + ".json"));
  for (auto* value : {&ours, &theirs}) value->erase("post_processor");
  CHECK(ours["added_tokens"] == theirs["added_tokens"]);
  CHECK(ours["model"]["vocab"] == theirs["model"]["vocab"]);
  CHECK(ours["normalizer"] == theirs["normalizer"]);
}

TEST_CASE("merges are strings or pairs") {
  CHECK(parse(document()).merges ==
        parse(document(R"({"model": {"merges": [["a", "b"]]}})")).merges);
}

TEST_CASE("a template puts tokens around the text") {
  const auto spec = parse(document(R"({"post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "x", "type_id": 0}}],
    "special_tokens": {"<s>": {"ids": [4]}, "x": {"ids": [0, 1]}}}})"));
  CHECK(spec.prefix_ids == Ids{4});
  CHECK(spec.suffix_ids == Ids{0, 1});
}

TEST_CASE("an added token behind a gap is written so that its id stays") {
  auto spec = parse(document());
  spec.added_tokens.push_back({6, "<gap>"});
  const auto again = parse_tokenizer_json(write_tokenizer_json(spec), "again");
  REQUIRE(again.added_tokens.size() == 2);
  CHECK(again.added_tokens[0].id == 4);
  CHECK(again.added_tokens[1].id == 6);
}

TEST_CASE("what is not byte-level BPE is refused by name") {
  const auto refuses = [](const std::string& patch, const std::string& message) {
    INFO(patch);
    CHECK_THROWS_AS(parse(document(patch)), FileError);
    CHECK_THROWS_WITH(parse(document(patch)), Contains("t.json: ") && Contains(message));
  };
  refuses(R"({"model": {"type": "WordPiece"}})", "model.type: expected BPE, found \"WordPiece\"");
  refuses(R"({"model": {"type": "Unigram", "vocab": [["a", -1.5]]}})", "\"Unigram\"");
  refuses(R"({"model": {"byte_fallback": true}})", "model.byte_fallback");
  refuses(R"({"model": {"dropout": 0.1}})", "model.dropout");
  refuses(R"({"model": {"end_of_word_suffix": "</w>"}})", "model.end_of_word_suffix");
  refuses(R"({"model": {"unk_token": "a"}})", "model.unk_token");
  refuses(R"({"model": {"novelty": 1}})", "'novelty' is not known");
  refuses(R"({"novelty": 1})", "'novelty' is not known");
  refuses(R"({"normalizer": {"type": "Lowercase"}})", "normalizer.type: expected NFC");
  refuses(R"({"pre_tokenizer": {"type": "Metaspace"}})", "pre_tokenizer.type");
  refuses(R"({"pre_tokenizer": null})", "pre_tokenizer: expected an object");
  refuses(
      R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed"}})",
      "pre_tokenizer.behavior: expected Isolated");
  refuses(R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": "x"}}})", "pattern.Regex");
  refuses(R"({"post_processor": {"type": "BertProcessing"}})", "post_processor.type");
  refuses(R"({"decoder": {"type": "WordPiece"}})", "decoder.type: expected ByteLevel");
}

TEST_CASE("malformed documents are refused with the place") {
  const auto refuses = [](const std::string& patch, const std::string& message) {
    INFO(patch);
    CHECK_THROWS_WITH(parse(document(patch)), Contains("t.json: ") && Contains(message));
  };
  refuses(R"({"model": {"vocab": {"c": -1}}})", "model.vocab: token 'c'");
  refuses(R"({"model": {"vocab": {"c": 1.5}}})", "model.vocab: token 'c'");
  refuses(R"({"model": {"vocab": {"c": 4000000000}}})", "4000000000");
  refuses(R"({"model": {"vocab": {"c": 2000000}}})", "largest id is 2000000");
  refuses(R"({"model": {"vocab": {"c": 0}}})", "id 0 has two tokens");
  refuses(R"({"model": {"vocab": [1]}})", "model.vocab: expected an object");
  refuses(R"({"model": {"merges": ["ab"]}})", "model.merges[0]: expected two tokens, found 'ab'");
  refuses(R"({"model": {"merges": ["a b", "a b c"]}})", "model.merges[1]");
  refuses(R"({"model": {"merges": [["a"]]}})", "model.merges[0]");
  refuses(R"({"model": {"merges": [[["a"], "b"]]}})", "model.merges[0]");
  refuses(R"({"model": {"merges": {}}})", "model.merges: expected a list");
  refuses(R"({"added_tokens": [{"id": 9, "content": "<s>"}]})",
          "added_tokens[0].id: expected id 4");
  refuses(R"({"added_tokens": [{"id": 4, "content": "a"}]})", "expected id 0 for 'a'");
  refuses(R"({"added_tokens": [{"id": -4, "content": "<s>"}]})", "added_tokens[0].id");
  refuses(R"({"added_tokens": [{"id": 4}]})", "added_tokens[0].content: expected a string");
  CHECK_THROWS_WITH(parse_tokenizer_json("{\"model\": ", "t.json"), Contains("t.json: byte 1"));
  CHECK_THROWS_WITH(parse_tokenizer_json("[]", "t.json"), Contains("expected an object"));
  CHECK_THROWS_WITH(parse_tokenizer_json("", "t.json"), Contains("t.json: byte"));
  CHECK_THROWS_WITH(parse_tokenizer_json("{\"a\": " + std::string(100'000, '['), "t.json"),
                    Contains("nested"));
}

TEST_CASE("text that is no UTF-8 cannot be written") {
  auto spec = parse(document());
  spec.vocab[0] = "\xFF";
  CHECK_THROWS_WITH(write_tokenizer_json(spec), Contains("not valid UTF-8"));
  spec = parse(document());
  spec.added_tokens[0].content = "\xFF";
  CHECK_THROWS_WITH(write_tokenizer_json(spec), Contains("not valid UTF-8"));
}

TEST_CASE("an added token that has another token's id cannot be written") {
  auto spec = parse(document());
  spec.added_tokens[0].id = 1;
  CHECK_THROWS_WITH(write_tokenizer_json(spec), Contains("'<s>': id 1 is that of 'b'"));
  spec.added_tokens[0].id = 1000;
  CHECK_THROWS_WITH(write_tokenizer_json(spec), Contains("'<s>': id 1000"));
}

}  // namespace tailor::models::text
