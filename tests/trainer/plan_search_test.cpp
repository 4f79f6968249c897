#include "trainer/plan/search.hpp"

#include <catch2/catch.hpp>

#include "tests/trainer/plan_tiny.hpp"

namespace tailor::trainer::plan {
namespace {

const AdapterSpec kAdapter{.r = 4};
const Workload kWork{.max_length = 256, .tokens_per_step = 32 * 256};

ClusterSpec gpus(std::int64_t num, double memory_bytes) {
  return {.num_gpus = num, .gpus_per_node = 4, .memory_bytes = memory_bytes};
}

std::int64_t num_refused(const Proposals& found) {
  std::int64_t out = 0;
  for (const auto& refusal : found.refused) out += refusal.num_layouts;
  return out;
}

}  // namespace

TEST_CASE("every layout either fits or has a reason why not, and the fastest come first") {
  const auto a = tiny_moe();
  const auto cluster = gpus(8, 2.5e9);
  const auto found = propose(a, kAdapter, cluster, kWork, 100);
  REQUIRE(found.num_fitting > 0);
  CHECK(found.num_fitting + num_refused(found) == found.num_tried);
  for (std::size_t i = 0; i < found.best.size(); ++i) {
    const auto& cost = found.best[i];
    CHECK(cost.layout.num_ranks() == 8);
    CHECK(cost.memory().total() <= cluster.memory_bytes);
    CHECK_FALSE(objection(a, cluster, kWork, cost.layout));
    if (i > 0) CHECK(found.best[i - 1].step_s <= cost.step_s);
  }
  const auto other = cost(a, kAdapter, cluster, kWork, {.tp = 2, .ep = 2, .dp = 2});
  CHECK(found.best.front().step_s <= other.step_s);
}

TEST_CASE("memory that does not suffice is a reason that names its largest part") {
  const auto found = propose(tiny_moe(), kAdapter, gpus(8, 1e6), kWork, 5);
  CHECK(found.best.empty());
  CHECK(num_refused(found) == found.num_tried);
  const auto memory =
      std::find_if(found.refused.begin(), found.refused.end(),
                   [](const Refusal& refusal) { return refusal.nearest.has_value(); });
  REQUIRE(memory != found.refused.end());
  CHECK(memory->reason == "memory, most of it for reserve");
  CHECK(memory->bytes > 1e6);
}

TEST_CASE("a model too large for one GPU fits on more of them") {
  auto a = tiny_moe();
  a.hidden_size = 4096;
  a.moe_intermediate_size = 1536;  // 2.4 billion parameters in experts
  const auto enough = enough_gpus(a, kAdapter, gpus(1, 4e9), kWork);
  REQUIRE(enough);
  CHECK(*enough > 1);
  auto cluster = gpus(*enough, 4e9);
  auto work = kWork;
  work.tokens_per_step *= *enough;
  CHECK(propose(a, kAdapter, cluster, work, 1).num_fitting > 0);
  cluster.num_gpus /= 2;
  work.tokens_per_step /= 2;
  CHECK(propose(a, kAdapter, cluster, work, 1).num_fitting == 0);
  CHECK_FALSE(enough_gpus(a, kAdapter, gpus(1, 1e6), kWork));
}

TEST_CASE("a dense model is not cut by experts") {
  auto a = tiny_moe();
  a.num_experts = a.num_experts_per_tok = a.moe_intermediate_size = 0;
  a.sparse.assign(8, false);
  a.intermediate_size = 192;
  for (const auto& cost : propose(a, kAdapter, gpus(8, 2.5e9), kWork, 100).best)
    CHECK(cost.layout.ep == 1);
}

}  // namespace tailor::trainer::plan
