#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "trainer/rewards/json_schema.hpp"
#include "trainer/rewards/reward.hpp"

namespace fs = std::filesystem;
using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;

namespace {

RewardConfig config_of(RewardKind kind) {
  RewardConfig config;
  config.kind = kind;
  config.place = "job.yaml:9:5: rewards[0]";
  return config;
}

Judged sample(std::string completion, std::string columns = "{}") {
  return {.prompt_json = "\"p\"",
          .completion = std::move(completion),
          .columns_json = std::move(columns)};
}

/// The score of one completion; -99: not scored.
double score(const RewardConfig& config, const Judged& judged) {
  const auto scores = make_reward(config)->score({&judged, 1});
  REQUIRE(scores.values.size() == 1);
  CHECK(scores.values[0].has_value() == scores.faults.empty());
  return scores.values[0].value_or(-99);
}

std::string fault(const RewardConfig& config, const Judged& judged) {
  const auto scores = make_reward(config)->score({&judged, 1});
  return scores.faults.empty() ? "" : scores.faults[0].reason;
}

bool accepts(const std::string& schema, const std::string& text) {
  return JsonSchema(schema, "s.json").accepts(text);
}

std::string schema_problem(const std::string& schema) {
  try {
    JsonSchema(schema, "s.json");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("numeric_answer compares with the row's column", "[rewards]") {
  const auto config = config_of(RewardKind::NumericAnswer);
  CHECK(score(config, sample("it is 72", R"({"answer": "48+24 = 72\n#### 72"})")) == 1);
  CHECK(score(config, sample("it is 71", R"({"answer": 72})")) == 0);
  CHECK(score(config, sample("it is 72.0", R"({"answer": 72})")) == 1);
  CHECK(score(config, sample("no idea", R"({"answer": 72})")) == 0);
  CHECK(score(config, sample("3", R"({"answer": ["2", 3]})")) == 1);
  CHECK_THAT(fault(config, sample("3", R"({"solution": 3})")), Contains("no column \"answer\""));
  CHECK_THAT(fault(config, sample("3", R"({"answer": null})")), Contains("no column \"answer\""));
  CHECK_THAT(fault(config, sample("3", R"({"answer": "?"})")), Contains("holds no number"));
  CHECK_THAT(fault(config, sample("3", R"({"answer": {}})")), Contains("neither text nor"));
  CHECK_THAT(fault(config, sample("3", R"({"answer": []})")), Contains("empty list"));
  auto other = config;
  other.column = "solution";
  CHECK(score(other, sample("3", R"({"solution": "\\frac{6}{2}"})")) == 1);
}

TEST_CASE("exact_answer compares texts", "[rewards]") {
  auto config = config_of(RewardKind::ExactAnswer);
  CHECK(score(config, sample(" paris. ", R"({"answer": "Paris"})")) == 1);
  CHECK(score(config, sample("<think>x</think><answer>Paris</answer>", R"({"answer": "Paris"})")) ==
        1);
  CHECK(score(config, sample("It is Paris", R"({"answer": "Paris"})")) == 0);
  CHECK(score(config, sample("B", R"({"answer": ["A", "B"]})")) == 1);
  CHECK(score(config, sample("true", R"({"answer": true})")) == 1);
  CHECK(score(config, sample("\\boxed{-5}", R"({"answer": "5"})")) == 0);
  config.ignore_case = false;
  CHECK(score(config, sample("paris", R"({"answer": "Paris"})")) == 0);
  config.ignore_punctuation = false;
  CHECK(score(config, sample("Paris.", R"({"answer": "Paris"})")) == 0);
}

TEST_CASE("regex searches, within limits", "[rewards]") {
  auto config = config_of(RewardKind::Regex);
  config.pattern = R"(^<b>\w+</b>$)";
  CHECK(score(config, sample("<b>wörd</b>")) == 1);
  CHECK(score(config, sample("a <b>b</b>")) == 0);
  config.pattern = "x";
  CHECK(score(config, sample("\xFF\xFE x")) == 1);  // no UTF-8 before it
  config.pattern = R"((a|a?)+\z(?<!a))";
  CHECK_THAT(fault(config, sample(std::string(40, 'a') + "b")), Contains("given up"));
  config.pattern = "(a";
  CHECK_THROWS_WITH(make_reward(config),
                    Contains("job.yaml:9:5: rewards[0].pattern: regular expression '(a'"));
}

TEST_CASE("format_tags wants each tag once and in order", "[rewards]") {
  auto config = config_of(RewardKind::FormatTags);
  config.tags = {"think", "answer"};
  const auto [text, strict, loose] = GENERATE(table<std::string, double, double>({
      {"<think>a</think><answer>b</answer>", 1, 1},
      {" <think>a</think>\n<answer></answer>\n", 1, 1},
      {"so <think>a</think> <answer>b</answer>", 0, 1},
      {"<think>a</think> and <answer>b</answer>", 0, 1},
      {"<think>a</think> <answer>b</answer> end", 0, 1},
      {"<answer>b</answer><think>a</think>", 0, 0},
      {"<think>a<answer>b</answer></think>", 0, 0},
      {"<think>a</think><think>a</think><answer>b</answer>", 0, 0},
      {"<think>a</think><answer>b", 0, 0},
      {"</think>a<think><answer>b</answer>", 0, 0},
      {"", 0, 0},
  }));
  CAPTURE(text);
  CHECK(score(config, sample(text)) == strict);
  config.strict = false;
  CHECK(score(config, sample(text)) == loose);
}

TEST_CASE("length and overlong count tokens", "[rewards]") {
  const auto of_length = [](const RewardConfig& config, std::int64_t num_tokens) {
    auto judged = sample("x");
    judged.num_tokens = num_tokens;
    return score(config, judged);
  };
  auto length = config_of(RewardKind::Length);
  length.min_length = 2;
  CHECK(of_length(length, 1) == 0);
  CHECK(of_length(length, 2) == 1);
  CHECK(of_length(length, 100'000) == 1);
  length.max_length = 3;
  CHECK(of_length(length, 3) == 1);
  CHECK(of_length(length, 4) == 0);

  // DAPO's own lengths (arXiv 2503.14476).
  auto overlong = config_of(RewardKind::Overlong);
  CHECK(needs_max_length(overlong));
  CHECK_THROWS_WITH(make_reward(overlong), Contains("max_length: missing"));
  overlong.max_length = 20480;
  for (const std::int64_t cache : {4096, 0}) {  // 0: a fifth
    overlong.cache_length = cache;
    CHECK(of_length(overlong, 0) == 0);
    CHECK(of_length(overlong, 16384) == 0);
    CHECK(of_length(overlong, 18432) == -0.5);
    CHECK(of_length(overlong, 20000) == -0.8828125);
    CHECK(of_length(overlong, 20480) == -1);
    CHECK(of_length(overlong, 20481) == -1);
  }
  overlong.max_length = 1;
  CHECK(of_length(overlong, 0) == 0);
  CHECK(of_length(overlong, 1) == -1);
  overlong.cache_length = 2;
  CHECK_THROWS_WITH(make_reward(overlong), Contains("at most max_length (1), found 2"));
}

TEST_CASE("repetition is the share of n-grams seen before", "[rewards]") {
  auto config = config_of(RewardKind::Repetition);
  config.ngram_size = 2;
  config.max_penalty = -1;
  CHECK(score(config, sample("")) == 0);
  CHECK(score(config, sample("one")) == 0);
  CHECK(score(config, sample("a b c d")) == 0);
  CHECK(score(config, sample("a A a\n a")) == Approx(-2.0 / 3));  // 3 bigrams, 1 distinct
  CHECK(score(config, sample("this is a a a test")) == Approx(-1.0 / 5));
  config.max_penalty = -0.5;
  CHECK(score(config, sample("a a a a")) == Approx(-1.0 / 3));
  config.ngram_size = 10;
  CHECK(score(config, sample("a a a a")) == 0);
}

TEST_CASE("json_schema judges the JSON of a completion", "[rewards]") {
  const auto file = fs::temp_directory_path() / ("tailor_schema_" + std::to_string(::getpid()));
  std::ofstream(file) << R"({"type": "object", "required": ["name"]})";
  auto config = config_of(RewardKind::JsonSchema);
  config.schema = file;
  CHECK(score(config, sample(R"({"name": 1})")) == 1);
  CHECK(score(config, sample(R"({"nam": 1})")) == 0);
  CHECK(score(config, sample(R"({"name": )")) == 0);
  CHECK(score(config, sample("```json\n{\"name\": 1}\n```\n")) == 1);
  CHECK(score(config, sample("<think>{}</think>\n{\"name\": 1}")) == 1);
  CHECK(score(config, sample("Here it is: {\"name\": 1}")) == 0);
  CHECK(score(config, sample("```json\n```")) == 0);
  CHECK(score(config, sample("")) == 0);
  CHECK(score(config, sample(std::string(1'000'000, '['))) == 0);
  std::ofstream(file) << R"({"typ": "object"})";
  CHECK_THROWS_WITH(make_reward(config),
                    Contains("job.yaml:9:5: rewards[0]: ") &&
                        Contains("the keyword \"typ\" is not supported; did you mean \"type\"?"));
  fs::remove(file);
  CHECK_THROWS_WITH(make_reward(config), Contains("cannot be read"));
}

TEST_CASE("the keywords of JSON Schema", "[rewards]") {
  const auto [schema, right, wrong] =
      GENERATE(table<std::string, std::vector<std::string>, std::vector<std::string>>({
          {"true", {"1", "{}"}, {"1 2", "NaN"}},
          {"false", {}, {"1"}},
          {R"({"type": "integer"})", {"1", "1.0", "-3"}, {"1.5", "\"1\"", "true"}},
          {R"({"type": "number"})", {"1", "1.5"}, {"\"1\"", "null"}},
          {R"({"type": ["string", "null"]})", {"\"a\"", "null"}, {"1", "[]"}},
          {R"({"enum": [1, "a", null]})", {"1", "1.0", "\"a\"", "null"}, {"2", "\"b\""}},
          {R"({"const": {"a": [1]}})", {R"({"a": [1]})"}, {R"({"a": [2]})"}},
          {R"({"properties": {"a": {"type": "string"}}})",
           {R"({"a": "x"})", "{}", "3"},
           {R"({"a": 1})"}},
          {R"({"properties": {"a": true}, "additionalProperties": false})",
           {R"({"a": 1})", "{}"},
           {R"({"b": 1})"}},
          {R"({"additionalProperties": {"type": "number"}})", {R"({"b": 1})"}, {R"({"b": ""})"}},
          {R"({"minProperties": 1, "maxProperties": 2})",
           {R"({"a": 1})"},
           {"{}", R"({"a": 1, "b": 1, "c": 1})"}},
          {R"({"items": {"type": "number"}, "minItems": 1, "maxItems": 2})",
           {"[1]", "[1, 2]"},
           {"[]", "[1, 2, 3]", "[\"a\"]"}},
          {R"({"prefixItems": [{"const": 1}], "items": {"type": "string"}})",
           {"[1, \"a\"]", "[]"},
           {"[2]", "[1, 2]"}},
          {R"({"uniqueItems": true})", {"[1, 2]", "[[1], [2]]"}, {"[1, 1.0]", "[{}, 1, {}]"}},
          {R"({"minimum": 1, "maximum": 2})", {"1", "2", "\"x\""}, {"0.9", "2.1"}},
          {R"({"exclusiveMinimum": 1, "exclusiveMaximum": 2})", {"1.5"}, {"1", "2"}},
          {R"({"multipleOf": 0.1})", {"0.3", "7"}, {"0.35"}},
          {R"({"minLength": 2, "maxLength": 3})", {R"("ab")", R"("äöü")"}, {R"("a")", R"("abcd")"}},
          {R"({"pattern": "^\\d+$"})", {R"("12")", "1"}, {R"("a1")"}},
          {R"({"allOf": [{"minimum": 1}, {"maximum": 2}]})", {"1"}, {"0", "3"}},
          {R"({"anyOf": [{"const": 1}, {"const": 2}]})", {"1", "2"}, {"3"}},
          {R"({"oneOf": [{"minimum": 1}, {"maximum": 2}]})", {"0", "3"}, {"1", "2"}},
          {R"({"not": {"type": "string"}})", {"1"}, {R"("a")"}},
          {R"({"$ref": "#/$defs/n", "$defs": {"n": {"type": "number"}}})", {"1"}, {R"("a")"}},
          // A tree.
          {R"({"type": "object", "properties": {"next": {"$ref": "#"}},
               "additionalProperties": false, "title": "t", "description": "d", "format": "x"})",
           {R"({"next": {"next": {}}})"},
           {R"({"next": {"nxt": {}}})"}},
      }));
  CAPTURE(schema);
  for (const auto& text : right) {
    CAPTURE(text);
    CHECK(accepts(schema, text));
  }
  for (const auto& text : wrong) {
    CAPTURE(text);
    CHECK_FALSE(accepts(schema, text));
  }
}

TEST_CASE("schemas that could not be kept are refused by name", "[rewards]") {
  const auto [schema, problem] = GENERATE(table<std::string, std::string>({
      {"{", "s.json: no JSON:"},
      {"3", "schema at #: expected a schema, found 3"},
      {R"({"if": {}})", R"(the keyword "if" is not supported)"},
      {R"({"properties": {"a/b": {"patternProperties": {}}}})",
       R"(schema at #/properties/a~1b: the keyword "patternProperties" is not supported)"},
      {R"({"type": "int"})", R"(schema at #/type: expected a type or a list of types)"},
      {R"({"required": "a"})", "expected a list of names"},
      {R"({"minItems": -1})", "expected a count, found -1"},
      {R"({"minimum": "1"})", "expected a number"},
      {R"({"multipleOf": 0})", "expected a number above 0"},
      {R"({"anyOf": []})", "expected a list of schemas"},
      {R"({"pattern": "("})", "schema at #/pattern: regular expression '('"},
      {R"({"$ref": "other.json"})", "only references within the file"},
      {R"({"$ref": "#/$defs/x"})", R"(there is no schema "#/$defs/x")"},
      {R"({"$ref": "#/enum/0", "enum": [{"minimum": "x"}]})", "there is no schema"},
  }));
  CHECK_THAT(schema_problem(schema), Contains(problem));
}

TEST_CASE("a schema that goes on without end is given up", "[rewards]") {
  CHECK_THROWS_AS(accepts(R"({"$ref": "#"})", "1"), SchemaLimit);
  CHECK_THROWS_AS(accepts(R"({"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"},
                               {"$ref": "#"}]}, "type": "array", "minItems": 1})",
                          std::string(30, '[') + std::string(30, ']')),
                  SchemaLimit);
}
