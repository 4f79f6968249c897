#include "configs/reader.hpp"

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <vector>

using tailor::configs::ConfigError;
using tailor::configs::Document;
using tailor::configs::Section;

namespace {

/// The errors that reading a document with `read` ends in, or "".
std::string errors_of(const Document& document, const std::function<void(Section&)>& read) {
  auto root = document.root();
  read(root);
  root.finish();
  try {
    document.check();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

std::string errors(const std::string& text, const std::function<void(Section&)>& read) {
  return errors_of(Document::yaml(text, "job.yaml"), read);
}

std::string lora_errors(const std::string& text) {
  return errors(text, [](Section& root) {
    auto peft = root.section("peft");
    peft.positive("r", 8);
    peft.number("lora_alpha", 8.0, {.min = 0.0, .open_min = true});
    peft.names("target_modules");
    peft.finish();
  });
}

/// What reading the value of key `v` of a YAML text, and of a JSON text, complains of.
std::string complaint(const std::string& value, const std::function<void(Section&)>& read) {
  const std::string start = "job.yaml:1:4: v: ";
  const auto text = errors("v: " + value + "\n", read);
  return text.starts_with(start) ? text.substr(start.size()) : text;
}

}  // namespace

TEST_CASE("a correct file has no problems", "[configs]") {
  CHECK(lora_errors("peft:\n  r: 16\n  lora_alpha: 32\n  target_modules: [q_proj, v_proj]\n") ==
        "");
  CHECK(lora_errors("peft: {target_modules: all-linear}") == "");
}

TEST_CASE("a problem names file, line, column, key, expectation and finding", "[configs]") {
  CHECK(lora_errors("peft:\n  r: sixteen\n  target_modules: x\n") ==
        "job.yaml:2:6: peft.r: expected a positive integer, found \"sixteen\"");
  CHECK(lora_errors("peft:\n  r: 0\n  target_modules: x\n") ==
        "job.yaml:2:6: peft.r: expected a positive integer, found \"0\"");
  CHECK(lora_errors("peft:\n  lora_alpha: 0.0\n  target_modules: x\n") ==
        "job.yaml:2:15: peft.lora_alpha: expected a number above 0, found \"0.0\"");
  CHECK(lora_errors("peft:\n  r: 4\n") ==
        "job.yaml:2:3: peft.target_modules: missing; expected a name or a list of names");
  CHECK(lora_errors("peft:\n  target_modules:\n") ==
        "job.yaml:2:3: peft.target_modules: missing; expected a name or a list of names");
  CHECK(lora_errors("peft: 5\n") == "job.yaml:1:7: peft: expected a section, found \"5\"");
  CHECK(lora_errors("peft:\n  r:16\n") ==
        "job.yaml:2:3: peft: expected a section (a colon needs a space behind it), found "
        "\"r:16\"");
  CHECK(lora_errors("peft: [1]\n") == "job.yaml:1:7: peft: expected a section, found a list");
}

TEST_CASE("all problems come at once, in file order, with suggestions", "[configs]") {
  CHECK(lora_errors("peft:\n"
                    "  r: sixteen\n"
                    "  lora_aplha: 32\n"
                    "  r: 4\n"
                    "  target_modules: []\n"
                    "pfet: {}\n"
                    "zzz: 1\n") ==
        "job.yaml:2:6: peft.r: expected a positive integer, found \"sixteen\"\n"
        "job.yaml:3:3: peft.lora_aplha: unknown key; did you mean \"lora_alpha\"?\n"
        "job.yaml:4:3: peft.r: given twice; first in line 2\n"
        "job.yaml:5:19: peft.target_modules: expected a name or a list of names, found an empty "
        "list\n"
        "job.yaml:6:1: pfet: unknown key; did you mean \"peft\"?\n"
        "job.yaml:7:1: zzz: unknown key");
}

TEST_CASE("only the first fifty problems are printed", "[configs]") {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "key" + std::to_string(i) + ": 1\n";
  const auto all = errors(text, [](Section&) {});
  CHECK(all.find("job.yaml:50:1: key49: unknown key\n... and 10 more") != std::string::npos);
  CHECK(all.find("key50") == std::string::npos);
}

TEST_CASE("an integer is written in decimal digits, without quotes", "[configs]") {
  const auto read = [](Section& root) { root.integer("v", {}, -5, 1000); };
  for (const auto* good : {"16", "0", "-5", "1000"}) CHECK(complaint(good, read) == "");
  for (const std::string bad : {"010", "0x10", "1e2", "16.0", "+5", "1_000", "on", "nan", "-x",
                                "99999999999999999999999", "1001", "-6", "true"})
    CHECK(complaint(bad, read) == "expected an integer from -5 to 1000, found \"" + bad + '"');
  CHECK(complaint("'16'", read) == "expected an integer from -5 to 1000, found \"16\" in quotes");
  CHECK(complaint("\"16\"", read) == "expected an integer from -5 to 1000, found \"16\" in quotes");
  CHECK(complaint("{}", read) == "expected an integer from -5 to 1000, found a section");
  CHECK(complaint("x", [](Section& root) { root.integer("v"); }) ==
        "expected an integer, found \"x\"");
  CHECK(complaint("x", [](Section& root) { root.integer("v", {}, 0); }) ==
        "expected an integer of at least 0, found \"x\"");
}

TEST_CASE("a number is finite and decimal", "[configs]") {
  const auto read = [](Section& root) { root.number("v"); };
  for (const auto* good : {"1", "1e-4", "2.0e-4", "2.0E+4", ".5", "5.", "-0.25", "0"})
    CHECK(complaint(good, read) == "");
  for (const std::string bad : {"nan", ".nan", "inf", "-.inf", "1e999", "010", "01.5", "0x1p3",
                                "1e", "1e+", ".", "-x", "1.2.3", "on", "false"})
    CHECK(complaint(bad, read) == "expected a finite number, found \"" + bad + '"');
  CHECK(complaint("'0.5'", read) == "expected a finite number, found \"0.5\" in quotes");
  const auto document = Document::yaml("v: 2.0e-4", "job.yaml");
  CHECK(document.root().number("v") == 2.0e-4);
}

TEST_CASE("a number keeps to its range", "[configs]") {
  const auto read = [](tailor::configs::Range range) {
    return [range](Section& root) { root.number("v", {}, range); };
  };
  CHECK(complaint("1", read({.min = 0, .max = 1})) == "");
  CHECK(complaint("1.5", read({.min = 0, .max = 1})) ==
        "expected a number of at least 0 and of at most 1, found \"1.5\"");
  CHECK(complaint("1", read({.min = 0, .max = 1, .open_max = true})) ==
        "expected a number of at least 0 and below 1, found \"1\"");
  CHECK(complaint("0", read({.min = 0, .open_min = true})) ==
        "expected a number above 0, found \"0\"");
  CHECK(complaint("2", read({.max = 1.5})) == "expected a number of at most 1.5, found \"2\"");
}

TEST_CASE("a boolean is true or false", "[configs]") {
  const auto read = [](Section& root) { root.boolean("v"); };
  for (const auto* good : {"true", "false", "True", "FALSE"}) CHECK(complaint(good, read) == "");
  for (const std::string bad : {"on", "off", "yes", "1", "tru"})
    CHECK(complaint(bad, read) == "expected true or false, found \"" + bad + '"');
  CHECK(complaint("'true'", read) == "expected true or false, found \"true\" in quotes");
  CHECK(Document::yaml("v: True", "f").root().boolean("v"));
  CHECK_FALSE(Document::yaml("v: false", "f").root().boolean("v", true));
}

TEST_CASE("text is text, and what looks like a number needs quotes", "[configs]") {
  const auto read = [](Section& root) { root.text("v"); };
  for (const auto* good : {"a b", "'16'", "\"\"", "010", "on", "|\n  two\n  lines"})
    CHECK(complaint(good, read) == "");
  CHECK(complaint("2024", read) == "expected text (in quotes, if that is meant), found \"2024\"");
  CHECK(complaint("[a]", read) == "expected text, found a list");
  CHECK(errors("w: 1", read) ==
        "job.yaml:1:1: v: missing; expected text\njob.yaml:1:1: w: unknown key");
}

TEST_CASE("a choice lists what there is and suggests the nearest", "[configs]") {
  const auto read = [](Section& root) { root.choice("v", {"cosine", "linear", "true"}); };
  CHECK(complaint("linear", read) == "");
  CHECK(complaint("True", read) == "");
  CHECK(complaint("cosin", read) ==
        "expected one of cosine, linear, true, found \"cosin\"; did you mean \"cosine\"?");
  CHECK(complaint("9", read) == "expected one of cosine, linear, true, found \"9\"");
  CHECK(complaint("'true'", read) ==
        "expected one of cosine, linear, true, found \"true\" in quotes");
  CHECK(complaint("grpo", [](Section& root) { root.choice("v", {"sft"}); }) ==
        "expected sft, found \"grpo\"");
  const auto list = [](Section& root) { root.choices("v", {"jsonl", "tensorboard"}, {}); };
  CHECK(complaint("jsonl", list) == "");
  CHECK(complaint("[jsonl, tensorboard]", list) == "");
  CHECK(errors("v: [jsonl, wandb]", list) ==
        "job.yaml:1:12: v[1]: expected one of jsonl, tensorboard, found \"wandb\"");
}

TEST_CASE("null, ~ and nothing count as absent", "[configs]") {
  for (const std::string text : {"v:\n", "v: ~\n", "v: null\n", "v: Null\n", "w: 1\n"}) {
    const auto document = Document::yaml(text, "job.yaml");
    auto root = document.root();
    CHECK_FALSE(root.has("v"));
    CHECK(root.integer("v", 7) == 7);
    CHECK(root.text("v", "x") == "x");
    CHECK(root.is_empty("v"));
    CHECK(root.names("v", false).empty());
    CHECK_NOTHROW(document.check());
  }
  CHECK(Document::yaml("v: 'null'\n", "f").root().text("v") == "null");
  CHECK(errors("v: ~\n", [](Section& root) { root.integer("v"); }) ==
        "job.yaml:1:1: v: missing; expected an integer");
}

TEST_CASE("lists and mappings are read item by item", "[configs]") {
  const auto document = Document::yaml("a: [x, y]\nb: 3\nc: [1, 2]\nd: {q: 4, p: 0.5}\n", "f");
  auto root = document.root();
  CHECK(root.names("a") == std::vector<std::string>{"x", "y"});
  CHECK(root.integers("b") == std::vector<std::int64_t>{3});
  CHECK(root.integers("c") == std::vector<std::int64_t>{1, 2});
  CHECK(root.numbers("d") == std::vector<std::pair<std::string, double>>{{"q", 4.0}, {"p", 0.5}});
  CHECK(root.keys() == std::vector<std::string>{"a", "b", "c", "d"});
  CHECK(root.is_list("a"));
  CHECK_FALSE(root.is_list("b"));
  CHECK(root.is_integer("b"));
  CHECK_NOTHROW(document.check());

  CHECK(errors("a: [x, 3]", [](Section& r) { r.names("a"); }) ==
        "job.yaml:1:8: a[1]: expected a name, found \"3\"");
  CHECK(errors("c: [1, x]", [](Section& r) { r.integers("c"); }) ==
        "job.yaml:1:8: c[1]: expected an integer, found \"x\"");
  CHECK(errors("d: {q: 4, p: -1}", [](Section& r) { r.numbers("d", {.min = 0}); }) ==
        "job.yaml:1:14: d.p: expected a number of at least 0, found \"-1\"");
  CHECK(errors("d: 4", [](Section& r) { r.numbers("d"); }) ==
        "job.yaml:1:4: d: expected a mapping of names to numbers, found \"4\"");
}

TEST_CASE("the items of a list of sections are named by position", "[configs]") {
  const auto read = [](Section& root) {
    auto data = root.section("data");
    for (auto& entry : data.sections("train")) {
      entry.text("path");
      entry.finish();
    }
    data.finish();
  };
  CHECK(errors("data: {train: [{path: a}, {path: b}]}", read) == "");
  CHECK(errors("data:\n  train:\n  - path: a\n  - paht: b\n  - c\n", read) ==
        "job.yaml:4:5: data.train[1].path: missing; expected text\n"
        "job.yaml:4:5: data.train[1].paht: unknown key; did you mean \"path\"?\n"
        "job.yaml:5:5: data.train[2]: expected a section, found \"c\"");
  CHECK(errors("data: {train: {path: a}}", read) ==
        "job.yaml:1:15: data.train: expected a list of sections, found a section");
}

TEST_CASE("a place is where the value, or else its section, stands", "[configs]") {
  const auto document = Document::yaml("peft:\n  r: 4\nlist:\n  - {a: 1}\n", "job.yaml");
  auto root = document.root();
  auto peft = root.section("peft");
  CHECK(peft.place("r") == "job.yaml:2:6: peft.r");
  CHECK(peft.place("lora_alpha") == "job.yaml:2:3: peft.lora_alpha");
  CHECK(root.section("data").place("train") == "job.yaml:1:1: data.train");
  CHECK(root.sections("list").front().place() == "job.yaml:4:5: list[0]");
}

TEST_CASE("an alias is read with a note, never beside the key it means", "[configs]") {
  std::int64_t r = 0;
  const auto read = [&r](Section& root) {
    auto peft = root.section("peft");
    peft.alias("lora_r", "r");
    r = peft.positive("r", 16);
    peft.finish();
  };
  const auto document = Document::yaml("peft:\n  lora_r: 8\n", "job.yaml");
  CHECK(errors_of(document, read) == "");
  CHECK(r == 8);
  CHECK(document.notes() == std::vector<std::string>{"job.yaml:2:3: peft.lora_r: read as peft.r"});
  CHECK(errors("peft:\n  lora_r: x\n", read) ==
        "job.yaml:2:11: peft.lora_r: expected a positive integer, found \"x\"");
  CHECK(errors("peft:\n  lora_r: 8\n  r: 8\n", read) ==
        "job.yaml:2:3: peft.lora_r: the same as \"r\", which is given too");
}

TEST_CASE("a key of another section or framework is answered with where it belongs", "[configs]") {
  const auto read = [](Section& root) {
    root.redirect("base_model", "model.name_or_path");
    auto model = root.section("model");
    model.text("name_or_path", "");
    model.finish();
    auto train = root.section("train");
    train.number("learning_rate", 1.0);
    train.redirect("lr", "learning_rate");
    train.alias("micro_batch_size", "per_device_train_batch_size");
    train.positive("per_device_train_batch_size", 8);
    train.finish();
  };
  CHECK(errors("learning_rate: 1\nbase_model: x\nlr: 1\nmicro_batch_size: 2\n"
               "model: {learning_rate: 3}\ntrain: {lr: 1}\n",
               read) ==
        "job.yaml:1:1: learning_rate: unknown key; did you mean \"train.learning_rate\"?\n"
        "job.yaml:2:1: base_model: unknown key; did you mean \"model.name_or_path\"?\n"
        "job.yaml:3:1: lr: unknown key; did you mean \"train.learning_rate\"?\n"
        "job.yaml:4:1: micro_batch_size: unknown key; did you mean "
        "\"train.per_device_train_batch_size\"?\n"
        "job.yaml:5:9: model.learning_rate: unknown key; did you mean \"train.learning_rate\"?\n"
        "job.yaml:6:9: train.lr: unknown key; did you mean \"learning_rate\"?");
}

TEST_CASE("a reader's own rules are reported at the value", "[configs]") {
  CHECK(errors("a: 3\n", [](Section& root) { root.reject("a", "expected an even integer"); }) ==
        "job.yaml:1:4: a: expected an even integer, found \"3\"");
  CHECK(errors("a: 3\n", [](Section& root) { root.report("a", "does not go with b"); }) ==
        "job.yaml:1:4: a: does not go with b");
  CHECK(errors("a: 3\n", [](Section& root) {
          root.ignore("a");
          root.reject("b", "expected something");
        }) == "job.yaml:1:1: b: missing; expected something");
}

TEST_CASE("the nearest word is found by edits, case, hyphens and parts", "[configs]") {
  using tailor::configs::nearest;
  CHECK(nearest("trian", {"train", "data"}) == "train");
  CHECK(nearest("Learning-Rate", {"learning_rate", "r"}) == "learning_rate");
  CHECK(nearest("alpha", {"lora_alpha", "lora_dropout"}) == "lora_alpha");
  CHECK(nearest("steps", {"max_steps", "save_steps"}) == "");
  CHECK(nearest("xyz", {"train", "data"}) == "");
  CHECK(nearest("", {"a"}) == "");
  CHECK(nearest(std::string(100'000, 'a'), {"a"}) == "");
}
