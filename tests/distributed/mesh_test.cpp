#include "distributed/mesh.hpp"

#include <ATen/ops/full.h>

#include <catch2/catch.hpp>
#include <vector>

#include "tests/support/on_ranks.hpp"

namespace tailor::distributed {
namespace {

using Ranks = std::vector<std::int64_t>;

/// Ranks of the job that are in `group`, in its order.
Ranks members(Group& group, int world_rank) {
  const auto all = group.all_gather(at::full({1}, world_rank, at::kLong));
  const auto* data = all.const_data_ptr<std::int64_t>();
  return {data, data + all.numel()};
}

/// Every group of `rank` in the mesh: dp, tp, ep, pp, data, model, dp_shard, expert_shard.
std::vector<Ranks> groups_of(const MeshSizes& sizes, int rank) {
  const auto by_rank = on_ranks(sizes.world(), [&](Group& world) {
    const auto mesh = make_mesh(world, sizes);
    std::vector<Ranks> out;
    for (const auto* group : {&mesh.dp, &mesh.tp, &mesh.ep, &mesh.pp, &mesh.data, &mesh.model,
                              &mesh.dp_shard, &mesh.expert_shard})
      out.push_back(members(**group, world.rank()));
    return out;
  });
  return by_rank[static_cast<std::size_t>(rank)];
}

}  // namespace

TEST_CASE("places number the ranks pp x dp x ep x tp, tp innermost") {
  const MeshSizes sizes{.dp = 2, .tp = 3, .ep = 4, .pp = 5};
  int rank = 0;
  for (int pp = 0; pp < 5; ++pp)
    for (int dp = 0; dp < 2; ++dp)
      for (int ep = 0; ep < 4; ++ep)
        for (int tp = 0; tp < 3; ++tp, ++rank) {
          const auto place = place_of(sizes, rank);
          CHECK(std::vector{place.pp, place.dp, place.ep, place.tp} == std::vector{pp, dp, ep, tp});
          CHECK(rank_at(sizes, place) == rank);
        }
  CHECK(rank == sizes.world());
}

TEST_CASE("groups hold the ranks that differ along their axes only") {
  const MeshSizes sizes{.dp = 2, .tp = 2, .ep = 1, .pp = 2, .dp_shard = 2};
  CHECK(groups_of(sizes, 6) ==
        std::vector<Ranks>{{4, 6}, {6, 7}, {6}, {2, 6}, {4, 6}, {2, 3, 6, 7}, {4, 6}, {4, 6}});
}

TEST_CASE("experts and replicas both see other data") {
  const MeshSizes sizes{.dp = 2, .ep = 2, .dp_shard = 4};
  CHECK(groups_of(sizes, 1) ==
        std::vector<Ranks>{{1, 3}, {1}, {0, 1}, {1}, {0, 1, 2, 3}, {1}, {0, 1, 2, 3}, {1, 3}});
}

TEST_CASE("weights can be divided among some of the data ranks") {
  const MeshSizes replicas{.dp = 6, .dp_shard = 3};
  CHECK(groups_of(replicas, 4)[6] == Ranks{3, 4, 5});
  CHECK(groups_of(replicas, 4)[7] == Ranks{3, 4, 5});
  const MeshSizes experts{.dp = 1, .ep = 4, .dp_shard = 2};
  CHECK(groups_of(experts, 3)[6] == Ranks{2, 3});
  CHECK(groups_of(experts, 3)[7] == Ranks{3});  // no other rank has its experts
}

TEST_CASE("one rank is a mesh of single groups") {
  const auto world = make_single_group();
  const auto mesh = make_mesh(*world, {});
  CHECK(mesh.model->size() == 1);
  CHECK(mesh.expert_shard->name() == "expert_shard");
}

TEST_CASE("the rest of the ranks is data parallel") {
  CHECK(fit_mesh({.tp = 2, .ep = 2}, 8).dp == 2);
  CHECK(fit_mesh({.dp = 7}, 3).dp == 3);
  CHECK(describe(fit_mesh({.tp = 2, .dp_shard = 2}, 4)) == "pp 1 x dp 2 x ep 1 x tp 2, dp_shard 2");
}

TEST_CASE("sizes that do not fit are told with what was expected") {
  CHECK_THROWS_WITH(fit_mesh({.tp = 4}, 6),
                    "tensor_parallel_size: 4 does not divide the 6 ranks of this job; start it "
                    "with 4 or a multiple");
  CHECK_THROWS_WITH(fit_mesh({.tp = 2, .pp = 3}, 4),
                    "pipeline_parallel_size: pipeline_parallel_size 3 x tensor_parallel_size 2 = 6 "
                    "does not divide the 4 ranks of this job; start it with 6 or a multiple");
  CHECK_THROWS_WITH(fit_mesh({.ep = 0}, 4), "expert_parallel_size: 0 is less than 1");
  CHECK_THROWS_WITH(fit_mesh({.ep = 2, .dp_shard = 3}, 4),
                    "dp_shard_size: 3 does not divide the 4 ranks that hold different data (dp 2 x "
                    "expert_parallel_size 2)");
  CHECK_THROWS_WITH(
      fit_mesh({.ep = 2, .dp_shard = 3}, 6),
      "dp_shard_size: 3 is neither a multiple nor a divisor of expert_parallel_size 2");
  CHECK_THROWS_WITH(fit_mesh({.tp = 2}, 1),
                    "tensor_parallel_size: 2 does not divide the 1 rank of this job; start it "
                    "with 2 or a multiple");
  const auto world = make_single_group();
  CHECK_THROWS_WITH(make_mesh(*world, {.dp = 2}),
                    "dp: pp 1 x dp 2 x ep 1 x tp 1 is a mesh of 2 ranks, the job has 1");
  try {
    fit_mesh({.pp = 3}, 4);
  } catch (const MeshError& e) {
    CHECK(e.key == "pipeline_parallel_size");
  }
}

}  // namespace tailor::distributed
