#include "trainer/plan/layout.hpp"

#include <catch2/catch.hpp>

#include "configs/reader.hpp"
#include "tests/trainer/plan_tiny.hpp"

namespace tailor::trainer::plan {
namespace {

std::string objection_to(const Layout& layout, const Workload& workload = {}) {
  const ClusterSpec cluster{.num_gpus = layout.num_ranks(), .gpus_per_node = 8};
  return objection(tiny_moe(), cluster, workload, layout).value_or("");
}

}  // namespace

TEST_CASE("a layout is read in any order, and data parallelism is what remains") {
  CHECK(parse_layout("ep=4,tp=2", 16) == Layout{.tp = 2, .ep = 4, .pp = 1, .dp = 2});
  CHECK(parse_layout("pp=2,dp=8,dp_shard=4", 16) == Layout{.pp = 2, .dp = 8, .dp_shard = 4});
  CHECK(parse_layout("tp=2", 16).text() == "tp=2 ep=1 pp=1 dp=8 dp_shard=1");
}

TEST_CASE("a layout that is no layout is refused with what was expected") {
  CHECK_THROWS_WITH(parse_layout("tp=2,xp=2", 8),
                    "--layout: expected tp, ep, pp, dp or dp_shard, as in tp=2,ep=8, found "
                    "\"xp=2\"");
  CHECK_THROWS_WITH(parse_layout("tp=two", 8),
                    "--layout: expected tp=N with N from 1, found \"tp=two\"");
  CHECK_THROWS_WITH(parse_layout("tp=3", 8), "--layout: tp * ep * pp = 3 does not divide gpus = 8");
  CHECK_THROWS_WITH(parse_layout("tp=2,dp=2", 8),
                    "--layout: tp * ep * pp = 2 and dp = 2 make 4 ranks of gpus = 8");
  CHECK_THROWS_WITH(parse_layout("tp=2,ep=2,tp=2", 8), "--layout: tp is given twice");
  CHECK_THROWS_AS(parse_layout("tp=0", 8), configs::ConfigError);
  CHECK_THROWS_AS(parse_layout("tp=2,", 8), configs::ConfigError);
}

TEST_CASE("what cannot be cut is said, memory aside") {
  CHECK(objection_to({.tp = 4, .ep = 2, .pp = 8}).empty());
  CHECK(objection_to({.tp = 8}) == "tp = 8 does not divide num_key_value_heads = 4");
  CHECK(objection_to({.ep = 3}) == "ep = 3 does not divide the number of experts = 16");
  CHECK(objection_to({.pp = 9}) == "pp = 9 is more than num_hidden_layers = 8");
  CHECK(objection_to({.dp = 4, .dp_shard = 3}) == "dp_shard = 3 does not divide dp * ep = 4");
  CHECK(objection_to({.ep = 4, .dp = 3, .dp_shard = 6}) ==
        "dp_shard = 6 and ep = 4 do not divide one another");
  CHECK(objection_to({.dp = 4}, {.max_length = 100, .tokens_per_step = 600}) ==
        "4 ranks with data of their own take 400 tokens at once, of which tokens-per-step = 600 is "
        "no multiple");
}

TEST_CASE("stages hold all layers once, as even as can be") {
  auto a = tiny_moe();
  a.num_hidden_layers = 61;
  const Layout layout{.pp = 8};
  std::int64_t next = 0;
  for (std::int64_t i = 0; i < layout.pp; ++i) {
    const auto s = stage(a, layout, i);
    CHECK(s.first == next);
    CHECK((s.last - s.first == 7 || s.last - s.first == 8));
    CHECK(s.has_embedding == (i == 0));
    CHECK(s.has_head == (i == 7));
    next = s.last;
  }
  CHECK(next == 61);
}

}  // namespace tailor::trainer::plan
