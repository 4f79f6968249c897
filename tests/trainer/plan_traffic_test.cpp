#include "trainer/plan/traffic.hpp"

#include <catch2/catch.hpp>

#include "tests/trainer/plan_tiny.hpp"

namespace tailor::trainer::plan {
namespace {

const ClusterSpec kCluster{.num_gpus = 32,
                           .gpus_per_node = 8,
                           .intra_bandwidth = 100.0,
                           .inter_bandwidth = 10.0,
                           .latency_s = 0.0};

StageTraffic whole_model(const Layout& layout, const Workload& workload) {
  const auto a = tiny_moe();
  const AdapterSpec adapter{.r = 4};
  const auto s = stage(a, layout, 0);
  Share share;
  for (auto layer = s.first; layer < s.last; ++layer)
    share += layer_share(a, adapter, kCluster, workload, layout, layer);
  return stage_traffic(a, share, kCluster, workload, layout, s);
}

}  // namespace

TEST_CASE("a group of one rank sends nothing") {
  for (const auto& transfer : {all_reduce(80, {1, 4}, kCluster), all_gather(80, {1, 4}, kCluster),
                               all_to_all(80, {1, 4}, kCluster)}) {
    CHECK(transfer.collectives == 0);
    CHECK(transfer.bytes == 0.0);
    CHECK(transfer.seconds == 0.0);
  }
}

TEST_CASE("rings send 2 (n - 1) / n and (n - 1) / n of the bytes") {
  CHECK(all_reduce(80, {4, 1}, kCluster).bytes == Approx(120));
  CHECK(all_gather(80, {4, 1}, kCluster).bytes == Approx(60));
}

TEST_CASE("a ring is as fast as its slowest link, with the network shares of its ranks in a node") {
  CHECK(all_gather(80, {8, 1}, kCluster).seconds == Approx(70.0 / 100));  // one node
  CHECK(all_gather(80, {16, 1}, kCluster).seconds == Approx(75.0 / 80));  // 8 ranks a node
  CHECK(all_gather(80, {4, 4}, kCluster).seconds == Approx(60.0 / 20));   // 2 ranks a node
  CHECK(all_gather(80, {4, 8}, kCluster).seconds == Approx(60.0 / 10));   // alone in its node
}

TEST_CASE("an all-to-all takes the longer of its parts in the node and beyond") {
  const auto near = all_to_all(80, {8, 1}, kCluster);
  CHECK(near.bytes == Approx(70));
  CHECK(near.seconds == Approx(70.0 / 100));
  CHECK(all_to_all(80, {16, 1}, kCluster).seconds == Approx(40.0 / 10));
}

TEST_CASE("tensor parallelism reduces the activations four times a layer, six with checkpointing") {
  Workload workload{.max_length = 32};
  const Layout layout{.tp = 4, .pp = 2};
  const double once = 2.0 * 3 / 4 * 32 * 64 * 2;
  const auto kept = whole_model(layout, workload);
  CHECK(kept.tensor.collectives == 4 * 4 + 1);  // four layers and the embedding
  CHECK(kept.tensor.bytes == Approx(17 * once));
  workload.gradient_checkpointing = true;
  CHECK(whole_model(layout, workload).tensor.collectives == 6 * 4 + 1);
}

TEST_CASE("expert parallelism sends every copy of a token there and back, forward and backward") {
  const auto traffic = whole_model({.ep = 4}, {.max_length = 32});
  CHECK(traffic.expert.bytes == Approx(8 * 4 * 3.0 / 4 * 2 * 32 * 64 * 2));
  CHECK(traffic.expert.collectives == 8 * (4 + 1));  // and the counts
}

TEST_CASE("divided matrices are gathered over their shards, experts over those that copy them") {
  const auto a = tiny_moe();
  const Layout layout{.ep = 4, .dp = 2, .dp_shard = 8};
  CHECK(layout.expert_shard() == 2);
  const auto traffic = whole_model(layout, {.max_length = 32});
  const double experts = 8.0 * 16 * 3 * 64 * 48, local_experts = experts / 4;
  const double dense = static_cast<double>(count(a).attention);
  CHECK(traffic.gather.bytes == Approx(2 * (dense * 7 / 8 + local_experts / 2)));
  CHECK(traffic.gather.collectives == 8 + 8);
}

TEST_CASE("gradients of experts' factors are summed over dp, all others over dp and ep") {
  const auto traffic = whole_model({.ep = 4, .dp = 2}, {.max_length = 32});
  const double experts = 8.0 * 16 * 3 * 4 * (64 + 48), attention = 8.0 * 4 * (2 * 192 + 2 * 128);
  CHECK(traffic.expert_gradients.bytes == Approx(2.0 * 1 / 2 * 4 * experts / 4));
  CHECK(traffic.gradients.bytes == Approx(2.0 * 7 / 8 * 4 * attention));
  CHECK(traffic.tensor_gradients.collectives == 0);
}

TEST_CASE("a stage at an end has one neighbour, one between has two") {
  const auto a = tiny_moe();
  const Layout layout{.pp = 4};
  const Workload workload{.max_length = 32};
  const auto bytes = [&](std::int64_t index) {
    return stage_traffic(a, {}, kCluster, workload, layout, stage(a, layout, index)).pipeline.bytes;
  };
  CHECK(bytes(0) == 32 * 64 * 2);
  CHECK(bytes(1) == 2 * 32 * 64 * 2);
  CHECK(bytes(3) == 32 * 64 * 2);
}

}  // namespace tailor::trainer::plan
