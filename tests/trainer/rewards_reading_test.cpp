#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "trainer/rewards/reward_reading.hpp"

namespace fs = std::filesystem;
using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;
using tailor::configs::Document;

namespace {

struct Workspace {
  fs::path dir = fs::temp_directory_path() / ("tailor_rewards_" + std::to_string(::getpid()));

  Workspace() {
    fs::create_directories(dir);
    std::ofstream(dir / "reward.py") << "def score(completions): return [0.0]\n";
    std::ofstream(dir / "schema.json") << "{}";
  }
  ~Workspace() { fs::remove_all(dir); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::vector<RewardConfig> read(const std::string& text) const {
    const auto document = Document::yaml(text, "job.yaml");
    auto root = document.root();
    auto rewards = read_rewards(root, {.folder = dir});
    root.finish();
    document.check();
    return rewards;
  }
  std::string errors(const std::string& entries) const {
    try {
      read("rewards: " + entries);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
};

}  // namespace

TEST_CASE("every kind of reward is read, written and read back", "[rewards]") {
  const Workspace workspace;
  const std::string text = R"(rewards:
  - {name: numeric_answer, weight: 2.0, column: gold, tolerance: 0.01}
  - {name: exact_answer, ignore_case: false, ignore_punctuation: false}
  - {name: regex, label: has_digit, pattern: '\d "x" \\'}
  - {name: regex, label: has_letter, pattern: '[a-z]', weight: -0.5}
  - {name: json_schema, schema: schema.json}
  - {name: format_tags, tags: [think, answer], strict: false}
  - {name: length, min_length: 3, max_length: 9}
  - {name: overlong, cache_length: 16}
  - {name: repetition, ngram_size: 4, max_penalty: -0.25}
  - {python: "reward.py:score", workers: 2, timeout_s: 0.5, memory_limit_mb: 0, max_restarts: 3,
     python_executable: /usr/bin/python3, start_timeout_s: 5}
  - {python: reward.py, name: mine}
  - {command: [./judge.sh, --fast, "a b"], cwd: .}
  - {command: grade}
  - {url: "http://127.0.0.1:9/score", workers: 4}
)";
  const auto rewards = workspace.read(text);
  REQUIRE(rewards.size() == 14);
  CHECK(rewards[0].kind == RewardKind::NumericAnswer);
  CHECK(rewards[0].name == "numeric_answer");
  CHECK(rewards[0].weight == 2.0);
  CHECK(rewards[0].column == "gold");
  CHECK(rewards[0].tolerance == 0.01);
  CHECK(rewards[0].place == "job.yaml:2:5: rewards[0]");
  CHECK_FALSE(rewards[1].ignore_case);
  CHECK(rewards[2].name == "has_digit");
  CHECK(rewards[2].pattern == "\\d \"x\" \\\\");
  CHECK(rewards[3].weight == -0.5);
  CHECK(rewards[4].schema == workspace.dir / "schema.json");
  CHECK(rewards[5].tags == std::vector<std::string>{"think", "answer"});
  CHECK_FALSE(rewards[5].strict);
  CHECK(rewards[6].max_length == 9);
  CHECK(needs_max_length(rewards[7]));
  CHECK(rewards[8].ngram_size == 4);
  CHECK(rewards[9].kind == RewardKind::Python);
  CHECK(rewards[9].name == "score");
  CHECK(rewards[9].file == workspace.dir / "reward.py");
  CHECK(rewards[9].function == "score");
  CHECK(rewards[9].workers == 2);
  CHECK(rewards[9].memory_limit_mb == 0);
  CHECK(rewards[9].cwd == workspace.dir);
  CHECK(rewards[10].function == "reward");
  CHECK(rewards[10].name == "mine");
  CHECK(rewards[11].command == std::vector<std::string>{"./judge.sh", "--fast", "a b"});
  CHECK(rewards[11].name == "judge");
  CHECK(rewards[12].name == "grade");
  CHECK(rewards[13].url == "http://127.0.0.1:9/score");
  CHECK(rewards[13].workers == 4);

  const auto yaml = rewards_yaml(rewards);
  const auto again = workspace.read(yaml);
  CHECK(rewards_yaml(again) == yaml);
  REQUIRE(again.size() == rewards.size());
  for (std::size_t i = 0; i < rewards.size(); ++i) {
    CHECK(again[i].kind == rewards[i].kind);
    CHECK(again[i].name == rewards[i].name);
    CHECK(again[i].command == rewards[i].command);
    CHECK(again[i].file == rewards[i].file);
  }
  CHECK(rewards_yaml({}).empty());
}

TEST_CASE("mistakes in rewards are told by place", "[rewards]") {
  const Workspace workspace;
  const auto [entries, problem] = GENERATE(table<std::string, std::string>({
      {"[]", "job.yaml:1:10: rewards: expected a list of sections, found an empty list"},
      {"[{weight: 1}]", "rewards[0].name: missing; expected a built-in reward, or one of python"},
      {"[{name: numeric_anwser}]", "did you mean \"numeric_answer\"?"},
      {"[{name: numeric_answer, tolerence: 1}]", "unknown key; did you mean \"tolerance\"?"},
      {"[{name: numeric_answer, pattern: a}]",
       "job.yaml:1:43: rewards[0].pattern: remove it: it belongs to regex, not to numeric_answer"},
      {"[{name: regex, pattern: a, max_length: 3}]",
       "remove it: it belongs to length and overlong, not to regex"},
      {"[{url: 'http://a', memory_limit_mb: 3}]", "belongs to python and command, not to url"},
      {"[{name: numeric_answer, weight: .nan}]", "rewards[0].weight: expected"},
      {"[{name: numeric_answer, weight: .inf}]", "rewards[0].weight: expected"},
      {"[{name: numeric_answer}, {name: numeric_answer}]",
       "rewards[1].label: two rewards are called \"numeric_answer\""},
      {"[{python: reward.py, name: a}, {command: x, name: a}]", "give one of them another name"},
      {"[{python: reward.py, command: x}]", "python is given too: make it an entry of its own"},
      {"[{python: 'rewrad.py:score'}]", "did you mean \"reward.py\"?"},
      {"[{python: 'reward.py:'}]", "as in reward.py:function"},
      {"[{python: 'reward.py:3x'}]", "as in reward.py:function"},
      {"[{python: 3}]", "expected text"},
      {"[{python: reward.py, cwd: nowhere}]", "no such folder"},
      {"[{python: reward.py, workers: 0}]", "expected an integer from 1 to 256"},
      {"[{python: reward.py, timeout_s: 0}]", "timeout_s: expected a number"},
      {"[{python: reward.py, timeout: 3}]", "timeout_s"},
      {"[{python: reward.py, name: 'a b'}]", "expected a word without spaces"},
      {"[{command: ./score --fast}]", "expected a list of words, as in [./score, --fast]"},
      {"[{command: []}]", "found an empty list"},
      {"[{name: regex}]", "rewards[0].pattern: missing"},
      {"[{name: json_schema, schema: shcema.json}]", "did you mean \"schema.json\"?"},
      {"[{name: format_tags, tags: ['a>b']}]", "expected names, as in [think, answer]"},
      {"[{name: format_tags, tags: [a, a]}]", "\"a\" is given twice"},
      {"[{name: length}]", "expected min_length, max_length or both"},
      {"[{name: length, min_length: 4, max_length: 3}]", "expected at most max_length (3)"},
      {"[{name: overlong, cache_length: 4, max_length: 3}]", "expected at most max_length (3)"},
      {"[{name: repetition, max_penalty: 1}]", "max_penalty: expected a number"},
  }));
  CAPTURE(entries);
  CHECK_THAT(workspace.errors(entries), Contains(problem));
}

TEST_CASE("the schema of the job file has the keys of every kind", "[rewards]") {
  const auto document = Document::describing();
  auto root = document.root();
  read_rewards(root, {});
  root.finish();
  const auto schema = nlohmann::json::parse(document.schema("t"));
  const auto& entry = schema["properties"]["rewards"]["items"];
  for (const auto* key : {"name", "label", "weight", "python", "command", "url", "pattern",
                          "max_length", "cache_length", "timeout_s", "cwd", "tags"})
    CHECK(entry["properties"].contains(key));
  CHECK_FALSE(entry.contains("required"));
  CHECK_FALSE(entry["properties"].contains("every kind of reward"));
}
