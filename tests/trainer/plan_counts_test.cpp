#include "trainer/plan/counts.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "configs/reader.hpp"

namespace tailor::trainer::plan {
namespace {

Architecture preset(const std::string& name) {
  return read_architecture(std::string(TAILOR_GOLDEN) + "/../../configs/presets/architectures/" +
                           name + ".json");
}

AdapterSpec rank_1(ExpertLora layout) { return {.r = 1, .expert_lora = layout}; }

/// Published configurations; the adapter's counts at rank 1 ("LoRA Without Regret" and MinT,
/// arXiv:2605.13779, give some of them).
struct Published {
  const char* name;
  std::int64_t parameters;
  double active, active_without_embedding;  // in 1e9, to three digits
  std::int64_t attention, per_expert, shared_outer, shared, shared_and_dense, head, tensors;
};

}  // namespace

TEST_CASE("published configurations have their published sizes, of the base and of an adapter") {
  const auto model =
      GENERATE(Published{"qwen3-30b-a3b", 30'532'122'624, 3.353, 3.042, 835'584, 51'904'512,
                         14'450'688, 405'504, 0, 153'984, 37'248},
               Published{"qwen3-235b-a22b", 235'093'634'560, 22.191, 21.568, 3'176'448, 203'292'672,
                         56'598'528, 1'588'224, 0, 156'032, 72'944},
               Published{"kimi-k2", 1'026'408'232'448, 32.862, 31.687, 3'814'208, 637'009'920,
                         142'848'000, 1'658'880, 1'735'680, 171'008, 139'216},
               Published{"moonlight-16b-a3b", 15'960'110'208, 2.915, 2.579, 444'096, 17'252'352,
                         7'188'480, 269'568, 419'328, 165'888, 10'362},
               Published{"deepseek-v3", 671'026'419'200, 37.552, 36.626, 6'062'912, 410'517'504,
                         92'473'344, 1'603'584, 1'833'984, 136'448, 90'064});
  CAPTURE(model.name);
  const auto a = preset(model.name);
  const auto base = count(a);
  CHECK(base.total() == model.parameters);
  CHECK(static_cast<double>(base.active()) / 1e9 == Approx(model.active).margin(5e-4));
  CHECK(static_cast<double>(base.active_without_embedding()) / 1e9 ==
        Approx(model.active_without_embedding).margin(5e-4));

  const auto adapter = count(a, rank_1(ExpertLora::PerExpert));
  CHECK(adapter.attention == model.attention);
  CHECK(adapter.routed_experts == model.per_expert);
  CHECK(adapter.shared_experts + adapter.dense_mlp == model.shared_and_dense);
  CHECK(adapter.tensors == model.tensors);
  CHECK(adapter.head == 0);
  CHECK(count(a, rank_1(ExpertLora::SharedOuter)).routed_experts == model.shared_outer);
  CHECK(count(a, rank_1(ExpertLora::Shared)).routed_experts == model.shared);
  CHECK(count(a, {.r = 1, .target_modules = {"lm_head"}}).total() == model.head);
}

TEST_CASE("attention without the second factors of its own compression has the published count") {
  const auto [name, expected] =
      GENERATE(std::pair{"kimi-k2", 1'940'288}, std::pair{"moonlight-16b-a3b", 319'680},
               std::pair{"deepseek-v3", 2'440'000});
  std::vector<std::string> targets = {"q_a_proj", "kv_a_proj_with_mqa", "o_proj"};
  const auto a = preset(name);
  if (a.q_lora_rank == 0) targets.front() = "q_proj";
  CHECK(count(a, {.r = 1, .target_modules = targets}).total() == expected);
}

TEST_CASE("small models of every family have as many parameters as in transformers") {
  std::ifstream in(std::string(TAILOR_GOLDEN) + "/architecture_counts.json");
  const auto golden = nlohmann::json::parse(in);
  REQUIRE(golden["models"].size() >= 11);
  for (const auto& model : golden["models"]) {
    const auto a = parse_architecture(model["config"].dump(), "config.json");
    CAPTURE(model["config"].dump());
    CHECK(count(a).total() == model["parameters"].get<std::int64_t>());
    CHECK(count(a, {.r = 1}).attention == model["attention_rank_1"].get<std::int64_t>());
  }
}

TEST_CASE("the rank multiplies every count, and experts can have a share of it") {
  const auto a = preset("qwen3-30b-a3b");
  const auto one = count(a, {.r = 1}), sixteen = count(a, {.r = 16});
  CHECK(sixteen.total() == 16 * one.total());
  CHECK(sixteen.tensors == one.tensors);
  const auto divided = count(a, {.r = 16, .divide_expert_rank = true});
  CHECK(divided.attention == sixteen.attention);
  CHECK(divided.routed_experts == 2 * one.routed_experts);  // 16 / 8 experts a token
}

TEST_CASE("targets and ranks that do not fit the model are refused") {
  const auto a = preset("qwen3-30b-a3b");
  CHECK_NOTHROW(check(a, {.target_modules = {"q_proj", "down_proj", "lm_head"}}));
  CHECK_THROWS_WITH(check(a, {.target_modules = {"q_proj", "w1"}}),
                    "--target-modules: qwen3_moe has no \"w1\"; it has q_proj, k_proj, v_proj, "
                    "o_proj, gate_proj, up_proj, down_proj, lm_head");
  CHECK_THROWS_AS(check(a, {.r = 12, .divide_expert_rank = true}), configs::ConfigError);
}

}  // namespace tailor::trainer::plan
