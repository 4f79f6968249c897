#include "peft/target_modules.hpp"

#include <catch2/catch.hpp>

using tailor::configs::ConfigError;
using tailor::peft::check_all_used;
using tailor::peft::explicit_targets;
using tailor::peft::LoraConfig;
using tailor::peft::match_targets;
using Names = std::vector<std::string>;

namespace {

const Names kPaths{"model.layers.0.self_attn.q_proj",
                   "model.layers.0.self_attn.v_proj",
                   "model.layers.0.mlp.up_proj",
                   "model.layers.1.self_attn.q_proj",
                   "model.layers.1.self_attn.v_proj",
                   "model.layers.1.mlp.up_proj",
                   "lm_head"};

LoraConfig list(Names targets, Names exclude = {}) {
  LoraConfig config;
  config.target_modules = std::move(targets);
  config.target_is_pattern = false;
  config.exclude_modules = std::move(exclude);
  return config;
}

LoraConfig pattern(std::string target, std::string exclude = "") {
  LoraConfig config;
  config.target_modules = {std::move(target)};
  if (!exclude.empty()) config.exclude_modules = {std::move(exclude)};
  config.exclude_is_pattern = true;
  return config;
}

std::vector<std::size_t> match(const LoraConfig& config) {
  return match_targets(config, kPaths, "lm_head", "job.yaml:3:4: peft.target_modules");
}

using Found = std::vector<std::size_t>;

}  // namespace

TEST_CASE("a list matches whole paths and suffixes behind a dot", "[peft]") {
  CHECK(match(list({"q_proj"})) == Found{0, 3});
  CHECK(match(list({"mlp.up_proj", "v_proj"})) == Found{1, 2, 4, 5});
  CHECK(match(list({"model.layers.1.self_attn.q_proj"})) == Found{3});
  CHECK_THROWS_AS(match(list({"proj"})), ConfigError);  // not behind a dot
}

TEST_CASE("a string is an expression for the whole path", "[peft]") {
  CHECK(match(pattern(R"(.*\.[qv]_proj)")) == Found{0, 1, 3, 4});
  CHECK(match(pattern(R"(model\.layers\.1\..*)")) == Found{3, 4, 5});
  CHECK_THROWS_AS(match(pattern("q_proj")), ConfigError);  // matches no whole path
}

TEST_CASE("all-linear is every layer but the head, in any case of letters", "[peft]") {
  CHECK(match(pattern("all-linear")) == Found{0, 1, 2, 3, 4, 5});
  CHECK(match(pattern("All-Linear")) == Found{0, 1, 2, 3, 4, 5});
}

TEST_CASE("what a job says of layers that are not there is refused", "[peft]") {
  const auto check = [](LoraConfig config, bool from_job = true) {
    if (from_job)
      config.places = {{"exclude_modules", "job.yaml:5:3: peft.exclude_modules"},
                       {"rank_pattern", "job.yaml:6:3: peft.rank_pattern"},
                       {"alpha_pattern", "job.yaml:7:3: peft.alpha_pattern"}};
    check_all_used(config, kPaths, {"lm_head", "model.embed_tokens"},
                   "job.yaml:3:4: peft.target_modules");
  };
  CHECK_NOTHROW(check(list({"q_proj"}, {"up_proj", "embed_tokens", "lm_head"})));
  CHECK_NOTHROW(check(pattern("all-linear", ".*embed.*")));
  CHECK_THROWS_WITH(check(list({"q_proj"}, {"v_porj"})),
                    "job.yaml:5:3: peft.exclude_modules: \"v_porj\" matches no linear layer of the "
                    "model; a path is \"model.layers.0.self_attn.q_proj\"");
  CHECK_THROWS_AS(check(pattern("all-linear", ".*layers.2.*")), ConfigError);
  CHECK_NOTHROW(check(list({"q_proj"}, {"v_porj"}), /*from_job=*/false));

  LoraConfig ranks;
  ranks.rank_pattern = {{"layers.1.self_attn.q_proj", 4.0}, {"up_.*", 2.0}};
  ranks.alpha_pattern = {{"v_proj", 4.0}};
  CHECK_NOTHROW(check(ranks));
  auto wrong = ranks;
  wrong.rank_pattern.emplace_back("layers.2.self_attn.q_proj", 8.0);
  CHECK_THROWS_WITH(check(wrong), Catch::StartsWith("job.yaml:6:3: peft.rank_pattern: \"layers.2"));
  wrong = ranks;
  wrong.alpha_pattern.emplace_back("embed_tokens", 8.0);
  CHECK_THROWS_WITH(check(wrong), Catch::StartsWith("job.yaml:7:3: peft.alpha_pattern: \"embed"));
}

TEST_CASE("exclusions come first", "[peft]") {
  CHECK(match(list({"q_proj", "v_proj"}, {"v_proj"})) == Found{0, 3});
  CHECK(match(pattern("all-linear", R"(.*layers\.0.*)")) == Found{3, 4, 5});
  CHECK(match(pattern(".*", "lm_head")) == Found{0, 1, 2, 3, 4, 5});
  CHECK_THROWS_WITH(match(list({"q_proj"}, {"self_attn.q_proj"})),
                    "job.yaml:3:4: peft.exclude_modules: excludes every targeted layer");
}

TEST_CASE("a name that no layer has is refused with the nearest", "[peft]") {
  CHECK_THROWS_WITH(match(list({"q_proj", "v_porj"})),
                    "job.yaml:3:4: peft.target_modules: no linear layer of the model is named "
                    "\"v_porj\"; did you mean \"v_proj\"?");
  CHECK_THROWS_AS(match(list({})), ConfigError);
  CHECK_THROWS_AS(match(list({""})), ConfigError);
}

TEST_CASE("the output head is refused by name", "[peft]") {
  CHECK_THROWS_WITH(match(list({"q_proj", "lm_head"})),
                    Catch::Contains("the output head \"lm_head\" cannot be adapted"));
  CHECK_THROWS_WITH(match(pattern(".*")), Catch::Contains("matches the output head \"lm_head\""));
}

TEST_CASE("an invalid or absurd expression is refused where it stands", "[peft]") {
  CHECK_THROWS_WITH(match(pattern("(q_proj")),
                    Catch::StartsWith("job.yaml:3:4: peft.target_modules: expected a regular "
                                      "expression, found \"(q_proj\""));
  CHECK_THROWS_WITH(match(pattern("all-linear", "[")),
                    Catch::StartsWith("job.yaml:3:4: peft.exclude_modules: expected a regular"));
  CHECK_THROWS_AS(match(pattern(std::string(100000, '('))), ConfigError);
  CHECK_THROWS_AS(match(pattern("(a{1,9999}){1,9999}")), ConfigError);
}

TEST_CASE("explicit targets name exactly the adapted modules", "[peft]") {
  const auto adapted = [](const Found& found) {
    Names names;
    for (const auto i : found) names.push_back(kPaths[i]);
    return names;
  };
  const Names paths(kPaths.begin(), kPaths.end() - 1);
  CHECK(explicit_targets(adapted({0, 3, 1, 4}), paths) == Names{"q_proj", "v_proj"});
  CHECK(explicit_targets(adapted({0, 3, 1}), paths) ==
        Names{"model.layers.0.self_attn.v_proj", "q_proj"});
  for (const Found& found : {Found{0}, Found{2, 5}, Found{1, 2, 3, 4, 5}})
    CHECK(match(list(explicit_targets(adapted(found), paths))) == found);
}
