#include "trainer/plan/cost.hpp"

#include <catch2/catch.hpp>

#include "tests/trainer/plan_tiny.hpp"

namespace tailor::trainer::plan {
namespace {

/// Communication costs nothing.
const ClusterSpec kFree{.num_gpus = 4,
                        .memory_bytes = 0.0,
                        .intra_bandwidth = 1e30,
                        .inter_bandwidth = 1e30,
                        .latency_s = 0.0};
const AdapterSpec kAdapter{.r = 4};
const Workload kWork{.max_length = 32, .tokens_per_step = 12 * 32};

LayoutCost of(const Layout& layout, const Workload& workload = kWork) {
  return cost(tiny_moe(), kAdapter, kFree, workload, layout);
}

}  // namespace

TEST_CASE("one rank holds the base, sixteen bytes a trained parameter and nothing twice") {
  const auto found = of({});
  CHECK(found.memory().weights == 2.0 * static_cast<double>(count(tiny_moe()).total()));
  CHECK(found.memory().adapter == 16.0 * static_cast<double>(count(tiny_moe(), kAdapter).total()));
  CHECK(found.memory().gathered == 0.0);
  CHECK(found.memory().logits == 2.0 * 4 * 32 * 128);
  CHECK(found.traffic().empty());
  CHECK(found.bubble == 0.0);
  CHECK(found.num_micro_batches == 12);
  CHECK(found.step_s == Approx(found.compute_s).epsilon(1e-12));
}

TEST_CASE("ranks with data of their own share the micro-batches") {
  const auto one = of({}), four = of({.dp = 4});
  CHECK(four.num_micro_batches == 3);
  CHECK(four.step_s == Approx(one.step_s / 4).epsilon(1e-9));
  CHECK(four.memory().total() == one.memory().total());
}

TEST_CASE("a pipeline of p stages idles for (p - 1) / (m + p - 1) of a step") {
  const auto found = of({.pp = 4});
  const double slowest = found.stages[found.slowest].compute_s;
  CHECK(found.step_s == Approx((12 + 3) * slowest).epsilon(1e-9));
  CHECK(found.bubble == Approx(3.0 / 15).epsilon(1e-9));
}

TEST_CASE("a stage holds the micro-batches that are on their way behind it") {
  const auto found = of({.pp = 4});
  // Stages 1 and 2 are alike but for the micro-batches in flight; each also has one layer's work.
  const auto a = layer_share(tiny_moe(), kAdapter, kFree, kWork, {.pp = 4}, 0).saved_values;
  CHECK(found.stages[1].memory.activations == Approx(2 * 32 * a * (2 * 3 + 1)));
  CHECK(found.stages[2].memory.activations == Approx(2 * 32 * a * (2 * 2 + 1)));
  const auto few = of({.pp = 4}, {.max_length = 32, .tokens_per_step = 32});
  CHECK(few.stages[1].memory.activations == Approx(2 * 32 * a * (2 * 1 + 1)));
}

TEST_CASE("checkpointing keeps a layer's input and pays one more forward") {
  auto lean = kWork;
  lean.gradient_checkpointing = true;
  const auto kept = of({}), found = of({}, lean);
  const auto saved = layer_share(tiny_moe(), kAdapter, kFree, kWork, {}, 0).saved_values;
  CHECK(found.memory().activations == Approx(2 * 32 * (8 * 64 + 2 * saved)));
  CHECK(found.compute_s ==
        Approx(kept.compute_s + 12 * kept.stages[0].share.forward_s).epsilon(1e-9));
}

TEST_CASE("a sharded base divides the matrices of its layers, two of which are gathered") {
  const auto counts = count(tiny_moe());
  const double whole =
      static_cast<double>(counts.embedding + counts.head + counts.norms + counts.routers);
  const double attention = static_cast<double>(counts.attention);
  const double experts = static_cast<double>(counts.routed_experts);
  const auto four = of({.dp = 4, .dp_shard = 4});
  CHECK(four.memory().weights == 2.0 * (whole + (attention + experts) / 4));
  CHECK(four.memory().gathered == 2.0 * 2 * (attention + experts) / 8);
  CHECK(four.memory().adapter == of({.dp = 4}).memory().adapter);
  // Every rank has experts of its own: nobody has their matrices in common with it.
  const auto own = of({.ep = 4, .dp_shard = 4});
  CHECK(own.memory().weights == 2.0 * (whole + (attention + experts) / 4));
  CHECK(own.memory().gathered == 2.0 * 2 * attention / 8);
  // Half of them are on two ranks each.
  const auto both = of({.ep = 2, .dp = 2, .dp_shard = 4});
  CHECK(both.memory().weights == 2.0 * (whole + attention / 4 + experts / 2 / 2));
  CHECK(both.memory().gathered == 2.0 * 2 * (attention + experts / 2) / 8);
}

TEST_CASE("gathered are neighbours, of a stage what it has") {
  auto a = tiny_moe();
  for (std::size_t i = 1; i < a.sparse.size(); i += 2) a.sparse[i] = false;
  a.intermediate_size = 192;
  const double attention = static_cast<double>(count(a).attention) / 8;
  const double sparse = attention + 16 * 3 * 64 * 48, dense = attention + 3 * 64 * 192;
  const Layout four{.dp = 4, .dp_shard = 4};
  CHECK(cost(a, kAdapter, kFree, kWork, four).memory().gathered == 2.0 * (sparse + dense));
  const Layout single{.pp = 8, .dp = 4, .dp_shard = 4};  // one layer a stage
  const auto found = cost(a, kAdapter, kFree, kWork, single);
  CHECK(found.stages[0].memory.gathered == 2.0 * sparse);
  CHECK(found.stages[1].memory.gathered == 2.0 * dense);
}

TEST_CASE("gathering costs only what computing does not hide") {
  auto cluster = kFree;
  const Layout layout{.dp = 4, .dp_shard = 4};
  const auto free = of(layout);
  const double pass_s = free.stages[0].compute_s / 2;
  cluster.intra_bandwidth = free.stages[0].traffic.gather.bytes / (pass_s * 0.9);
  const auto hidden = cost(tiny_moe(), kAdapter, cluster, kWork, layout);
  CHECK(hidden.stages[0].communication_s == 0.0);
  cluster.intra_bandwidth = free.stages[0].traffic.gather.bytes / (pass_s * 3);
  const auto late = cost(tiny_moe(), kAdapter, cluster, kWork, layout);
  CHECK(late.stages[0].communication_s == Approx(2 * 2 * pass_s).epsilon(1e-9));
}

}  // namespace tailor::trainer::plan
