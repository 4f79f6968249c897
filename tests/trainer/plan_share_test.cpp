#include "trainer/plan/share.hpp"

#include <catch2/catch.hpp>

#include "tests/trainer/plan_tiny.hpp"

namespace tailor::trainer::plan {
namespace {

/// What one rank of a stage holds, over all stages.
Share of_all_stages(const Architecture& a, const AdapterSpec& adapter, const Layout& layout,
                    const Workload& workload = {}) {
  auto out = embedding_share(a, layout);
  for (std::int64_t layer = 0; layer < a.num_hidden_layers; ++layer)
    out += layer_share(a, adapter, {}, workload, layout, layer);
  return out += head_share(a, adapter, {}, workload, layout);
}

}  // namespace

TEST_CASE("the ranks of all experts hold every weight and every factor once") {
  const auto a = tiny_moe();
  for (const auto kind : {ExpertLora::PerExpert, ExpertLora::SharedOuter, ExpertLora::Shared}) {
    const AdapterSpec adapter{.r = 4, .expert_lora = kind};
    for (const std::int64_t ep : {1, 2, 16}) {
      const auto share = of_all_stages(a, adapter, {.ep = ep});
      CHECK(share.dense_weights + ep * share.expert_weights == count(a).total());
      CHECK(share.adapter + ep * share.expert_adapter == count(a, adapter).total());
    }
  }
}

TEST_CASE("the ranks of tensor parallelism hold what is cut once and what is whole each") {
  const auto a = tiny_moe();
  const AdapterSpec adapter{.r = 4};
  for (const std::int64_t tp : {1, 2, 4}) {
    const auto share = of_all_stages(a, adapter, {.tp = tp});
    const auto counts = count(a);
    const auto whole = counts.norms + counts.routers;
    CHECK(tp * (share.weights() - whole) + whole == counts.total());
    CHECK(tp * share.adapter_values() - (tp - 1) * share.adapter_whole_over_tp ==
          count(a, adapter).total());
    // A of q, k, v, gate and up, and B of o and down: whole everywhere.
    CHECK(share.adapter_whole_over_tp == 8 * 4 * (64 * 4 + 16 * 3 * 64));
  }
}

TEST_CASE("all but the matrices of layers stays whole where the base is sharded") {
  auto a = tiny_moe();
  a.qkv_bias = true;
  a.shared_expert_width = 48;
  a.shared_expert_gate = true;
  for (const std::int64_t tp : {1, 2}) {
    const Layout layout{.tp = tp};
    const auto share = of_all_stages(a, {.r = 4}, layout);
    const std::int64_t biases = 8 * (128 + 64 + 64), routers = 8 * 16 * 64;
    CHECK(share.whole_weights == (2 * 128 * 64 + biases) / tp + routers + count(a).norms);
    const std::int64_t attention = count(a).attention - biases, gates = 8 * 64;
    CHECK(share.divided_weights() == (attention + count(a).shared_experts) / tp + gates);
    CHECK(embedding_share(a, layout).divided_weights() == 0);
    CHECK(head_share(a, {.r = 4}, {}, {}, layout).divided_weights() == 0);
  }
}

TEST_CASE("a token costs two FLOP a weight it meets forward, and the attention scores") {
  auto a = tiny_moe();
  const AdapterSpec adapter{.r = 4, .target_modules = {"o_proj"}};
  const Workload workload{.max_length = 32};
  const auto share = of_all_stages(a, adapter, {}, workload);
  const auto counts = count(a);
  const double base = 2.0 * static_cast<double>(counts.active_without_embedding() - counts.norms);
  const double lora = 8 * 2.0 * 4 * (128 + 64);
  const double scores =
      8 * 8 * (16 + 16) * 32.0;  // layers, heads, d_qk + d_v, T: half of the pairs
  CHECK(share.forward_flops == Approx(base + lora + scores).epsilon(1e-12));
  CHECK(share.backward_flops == Approx(base + 2 * lora + 2.5 * scores).epsilon(1e-12));
}

TEST_CASE("products take what their FLOP take, or what moving them takes") {
  const auto a = tiny_moe();
  const AdapterSpec none{.r = 4, .target_modules = {"lm_head"}};
  const Workload workload{.max_length = 32};
  const Layout layout;
  const ClusterSpec slow{.flops = 1e9, .memory_bandwidth = 1e18};
  const auto by_flops = layer_share(a, none, slow, workload, layout, 0);
  CHECK(by_flops.forward_s == Approx(32 * by_flops.forward_flops / 1e9).epsilon(1e-12));
  const ClusterSpec narrow{.flops = 1e18, .memory_bandwidth = 1e9};
  const auto by_memory = layer_share(a, none, narrow, workload, layout, 0);
  const double attention = 64 * 128 * 2 + 64 * 64 * 2, experts = 16 * 3 * 64 * 48;
  const double rows = 32 * (4 * 64 + 2 * 128 + 2 * 64) + 32 * 2 * 3 * (64 + 48);
  CHECK(by_memory.forward_s == Approx(2 * (attention + experts + rows) / 1e9).epsilon(1e-6));
}

TEST_CASE("the busiest expert rank has more rows, a rank with all experts has not") {
  const auto a = tiny_moe();
  const AdapterSpec adapter{.r = 4};
  const Workload even{}, uneven{.expert_imbalance = 2.0};
  const auto flops = [&](const Workload& workload, std::int64_t ep) {
    return layer_share(a, adapter, {}, workload, {.ep = ep}, 0).forward_flops;
  };
  CHECK(flops(uneven, 1) == flops(even, 1));
  const double experts = 2 * (2.0 * 3 * 64 * 48 + 2.0 * 4 * 3 * (64 + 48));
  CHECK(flops(uneven, 2) == Approx(flops(even, 2) + experts).epsilon(1e-12));
}

}  // namespace tailor::trainer::plan
