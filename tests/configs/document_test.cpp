#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "configs/reader.hpp"

using tailor::configs::ConfigError;
using tailor::configs::Document;

namespace {

std::string yaml_error(const std::string& text) {
  try {
    Document::yaml(text, "job.yaml").check();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

std::string json_error(const std::string& text) {
  try {
    Document::json(text, "config.json").check();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

std::string set_error(const std::string& text, const std::vector<std::string>& assignments) {
  try {
    auto document = Document::yaml(text, "job.yaml");
    for (const auto& assignment : assignments) document.set(assignment);
    auto root = document.root();
    auto peft = root.section("peft");
    peft.positive("r", 8);
    peft.finish();
    for (auto& entry : root.sections("train")) {
      entry.text("path");
      entry.finish();
    }
    root.finish();
    document.check();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("text that is no YAML mapping is refused with its place", "[configs]") {
  CHECK(yaml_error("peft:\n\tr: 1\n") ==
        "job.yaml:2:3: illegal map value (a tab cannot indent; use spaces)");
  CHECK(yaml_error("peft: [1, 2\nb: 3") == "job.yaml:2:2: end of sequence flow not found");
  CHECK(yaml_error("a: b: c\n") == "job.yaml:1:5: illegal map value");
  CHECK(yaml_error("- 1\n") == "job.yaml:1:1: expected keys and values, found a list");
  CHECK(yaml_error("word\n") == "job.yaml:1:1: expected keys and values, found \"word\"");
  CHECK(yaml_error("") == "job.yaml: expected keys and values, found nothing");
  CHECK(yaml_error("# only a comment\n") == "job.yaml: expected keys and values, found nothing");
  CHECK(yaml_error("a: 1\n---\nb: 2\n") ==
        "job.yaml: expected one YAML document, found more than one");
  CHECK(yaml_error("{\"text\": \"a\"}\n{\"text\": \"b\"}\n") ==
        "job.yaml: expected one YAML document, found more than one; are these rows of data?");
  CHECK(yaml_error("a: !!str 16\n") ==
        "job.yaml:1:4: tags are not supported, found \"tag:yaml.org,2002:str\"");
  CHECK(yaml_error("[a, b]: 1\n") ==
        "job.yaml:1:1: expected a name as key (is a bracket not closed?)");
  CHECK(yaml_error("~: 1\n") == "job.yaml:1:1: expected a name as key (is a bracket not closed?)");
  CHECK(yaml_error(std::string((1 << 20) + 1, '#')) ==
        "job.yaml: expected at most 1 MiB of YAML, found more");
}

TEST_CASE("keys given twice are found at every depth", "[configs]") {
  CHECK(yaml_error("a: 1\nb:\n  - c: {d: 1, d: 2}\na: 3\n") ==
        "job.yaml:3:15: b[0].c.d: given twice; first in line 3\n"
        "job.yaml:4:1: a: given twice; first in line 1");
  CHECK(json_error(R"({"a": {"b": 1, "b": 2}})") == "config.json: a.b: given twice");
}

TEST_CASE("an alias repeats its value", "[configs]") {
  const auto document = Document::yaml("a: &x [1, 2]\nb: *x\nc: &y 5\nd: *y\n", "job.yaml");
  auto root = document.root();
  CHECK(root.integers("b") == std::vector<std::int64_t>{1, 2});
  CHECK(root.integer("d") == 5);
  CHECK_NOTHROW(document.check());
  CHECK(yaml_error("a: &x [*x]\n") ==
        "job.yaml:1:8: an alias cannot stand inside the value it repeats");
  CHECK(yaml_error("a: *x\n") == "job.yaml:1:4: the referenced anchor is not defined");
}

TEST_CASE("documents that unfold without end are errors", "[configs]") {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    const auto alias = "*a" + std::to_string(i - 1);
    bomb += 'a' + std::to_string(i) + ": &a" + std::to_string(i) + " [" +
            repeated(alias + ", ", 9) + alias + "]\n";
  }
  CHECK(yaml_error(bomb).ends_with("more than 100000 values"));
  CHECK(yaml_error("a: &x " + std::string(500'000, 'x') + "\nb: [" + repeated("*x, ", 1000) + "]\n")
            .ends_with("more than 64 MiB of text"));
  CHECK(yaml_error("a: " + repeated("[a, ", 100'000)) ==
        "job.yaml:1:8: expected a name as key (is a bracket not closed?)");
  const auto deep = repeated("[", 100) + repeated("]", 100);
  CHECK(yaml_error("a: " + deep) == "job.yaml:1:67: nested deeper than 64 levels");
  CHECK(yaml_error("a: " + repeated("{b: ", 100'000)).ends_with("nested deeper than 64 levels"));
  CHECK(yaml_error(repeated("- ", 100'000)).ends_with("nested deeper than 64 levels"));
  CHECK(yaml_error(repeated("? ", 100'000))
            .ends_with("expected a name as key (is a bracket not closed?)"));
  CHECK(json_error("{\"a\": " + repeated("[", 1'000'000)) ==
        "config.json: nested deeper than 64 levels");
  CHECK(json_error("{\"a\": [" + repeated("1,", 200'000) + "1]}") ==
        "config.json: more than 100000 values");
}

TEST_CASE("what a message quotes is short and printable", "[configs]") {
  const auto document = Document::yaml("a: \"x\\e[31m\\0" + std::string(100, 'y') + "\"\n", "f");
  auto root = document.root();
  root.integer("a");
  CHECK_THROWS_WITH(document.check(), "f:1:4: a: expected an integer, found \"x\\x1b[31m\\x00" +
                                          std::string(53, 'y') + "...\"");
}

TEST_CASE("JSON keeps numbers as written and strings as text", "[configs]") {
  const auto document = Document::json(
      R"({"i": 9007199254740993, "u": 18446744073709551615, "f": 1e-05, "s": "\ud83d\ude00",
          "b": true, "n": null, "t": "16"})",
      "config.json");
  auto root = document.root();
  CHECK(root.integer("i") == 9007199254740993);
  CHECK(root.number("f") == 1e-5);
  CHECK(root.text("s") == "\xF0\x9F\x98\x80");
  CHECK(root.boolean("b"));
  CHECK_FALSE(root.has("n"));
  CHECK(root.is_text("t"));
  CHECK_NOTHROW(document.check());
  root.integer("u");
  root.integer("t");
  CHECK_THROWS_WITH(document.check(),
                    "config.json: u: expected an integer, found \"18446744073709551615\"\n"
                    "config.json: t: expected an integer, found \"16\" in quotes");
}

TEST_CASE("text that is no JSON object is refused with its place", "[configs]") {
  CHECK(json_error("{\"a\": 1,}") ==
        "config.json:1:9: syntax error while parsing object key - unexpected '}'; expected string "
        "literal");
  CHECK(json_error("[1]") == "config.json: expected keys and values, found a list");
  CHECK(json_error("") ==
        "config.json:1:1: syntax error while parsing value - unexpected end of input; expected "
        "'[', '{', or a literal");
  CHECK(json_error("{\"a\": \"" + std::string(10'000, 'x')).size() < 400);
}

TEST_CASE("an assignment replaces, adds and makes sections", "[configs]") {
  CHECK(set_error("peft: {r: x}\n", {"peft.r=16"}) == "");
  CHECK(set_error("train: [{path: a}]\n", {"peft.r=16", "train[0].path=b"}) == "");
  CHECK(set_error("peft:\n", {"peft.r=16"}) == "");
  CHECK(set_error("train: []\n", {"train=[{path: a}]"}) == "");
  CHECK(set_error("peft: {r: x}\n", {"peft.r="}) == "");
  auto document = Document::yaml("peft: {r: 4}\n", "f");
  document.set("peft.r=16");
  document.set("name=a=b");
  auto root = document.root();
  CHECK(root.section("peft").integer("r") == 16);
  CHECK(root.text("name") == "a=b");
}

TEST_CASE("problems of an assignment name it, behind those of the file", "[configs]") {
  CHECK(set_error("peft:\n  rr: 4\n", {"peft.r=x"}) ==
        "job.yaml:2:3: peft.rr: unknown key\n"
        "--set peft.r=x: peft.r: expected a positive integer, found \"x\"");
  CHECK(set_error("peft: {}\n", {"pfet.r=4"}) ==
        "--set pfet.r=4: pfet: unknown key; did you mean \"peft\"?");
  CHECK(set_error("peft: 5\n", {"peft.r=3"}) ==
        "job.yaml:1:7: peft: expected a section, found \"5\"\n"
        "--set peft.r=3: peft: expected a section, found \"5\"");
  CHECK(set_error("train: [{path: a}]\n", {"train[1].path=b"}) ==
        "--set train[1].path=b: train: expected a position below 1, found \"1\"");
  CHECK(set_error("peft: {}\n", {"peft[0]=b"}) ==
        "--set peft[0]=b: peft: expected a list, found a section");
  CHECK(set_error("peft: {}\n", {"peft.r={r: 1, r: 2}"}) ==
        "--set peft.r={r: 1, r: 2}: peft.r: expected a positive integer, found a section\n"
        "--set peft.r={r: 1, r: 2}: peft.r.r: given twice");
  CHECK(set_error("peft: {}\n", {"peft.r=[1, 2"}) ==
        "--set peft.r=[1, 2: expected a name as key (is a bracket not closed?)");
  for (const std::string wrong : {"peft.r", "=1", ".r=1", "peft.=1", "a[x]=1", "a[0=1", "a[0]b=1"})
    CHECK(set_error("peft: {}\n", {wrong}) ==
          "--set " + wrong + ": expected key=value, as in peft.r=16");
}

TEST_CASE("what was read from a describing document makes its schema", "[configs]") {
  const auto document = Document::describing();
  auto root = document.root();
  root.choice("task", {"sft"}, "sft");
  auto peft = root.section("peft");
  peft.alias("lora_r", "r");
  peft.positive("r", 16);
  peft.number("dropout", 0.0, {.min = 0, .max = 1, .open_max = true});
  peft.choice("init", {"true", "gaussian"}, "true");
  if (peft.has("steps")) peft.integer("steps", {}, 0, 9);
  for (auto& entry : root.sections("train")) entry.text("path");
  CHECK(document.schema("a job") == R"({
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "a job",
  "type": "object",
  "properties": {
    "task": {
      "enum": [
        "sft",
        null
      ],
      "default": "sft"
    },
    "peft": {
      "type": [
        "object",
        "null"
      ],
      "properties": {
        "r": {
          "type": [
            "integer",
            "null"
          ],
          "minimum": 1,
          "default": 16
        },
        "dropout": {
          "type": [
            "number",
            "null"
          ],
          "minimum": 0.0,
          "exclusiveMaximum": 1.0,
          "default": 0
        },
        "init": {
          "enum": [
            true,
            "gaussian",
            null
          ],
          "default": true
        },
        "steps": {
          "type": [
            "integer",
            "null"
          ],
          "minimum": 0,
          "maximum": 9
        },
        "lora_r": {
          "type": [
            "integer",
            "null"
          ],
          "minimum": 1,
          "default": 16,
          "deprecated": true,
          "description": "another name of r"
        }
      },
      "additionalProperties": false
    },
    "train": {
      "type": [
        "array",
        "null"
      ],
      "items": {
        "type": "object",
        "properties": {
          "path": {
            "type": "string"
          }
        },
        "additionalProperties": false,
        "required": [
          "path"
        ]
      }
    }
  },
  "additionalProperties": false
})");
}
