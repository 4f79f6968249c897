// T tokens, D hidden size, E experts.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch.hpp>
#include <map>

#include "models/layers/moe.hpp"

using namespace tailor::models;
using kernels::Arithmetic;

namespace {

constexpr std::int64_t kHidden = 12, kWidth = 8, kExperts = 6;

MoeConfig config(bool shared) {
  MoeConfig c;
  c.router = {.num_experts = kExperts, .num_experts_per_tok = 2, .norm_topk_prob = true};
  c.hidden_size = kHidden;
  c.moe_intermediate_size = kWidth;
  if (!shared) return c;
  c.shared_intermediate_size = 10;
  c.shared_expert_gate = true;
  c.names.shared_expert = "shared_expert";
  return c;
}

using Tensors = std::map<std::string, at::Tensor>;

/// Fills what `module` holds here from `all`, made up where it lacks an entry.
void load(Module& module, Tensors& all) {
  for (const auto& p : module.parameters()) {
    auto& whole = all[p.name];
    if (!whole.defined()) whole = at::randn(p.shape) / 2;
    *p.value =
        p.slice ? whole.narrow(p.slice->dim, p.slice->begin, p.slice->length).contiguous() : whole;
  }
}

at::Tensor swiglu_mlp(const Tensors& all, const std::string& path, const at::Tensor& x) {
  const auto w = [&](const char* name) { return all.at(path + name).to(at::kDouble); };
  return at::linear(
      at::silu(at::linear(x, w("gate_proj.weight"))) * at::linear(x, w("up_proj.weight")),
      w("down_proj.weight"));
}

/// Every expert on every token, weighted, those that were dropped (-1 in `kept_TK`) by 0: float64.
at::Tensor plain(const Tensors& all, const at::Tensor& x, const at::Tensor& router, bool shared,
                 const at::Tensor& kept_TK = {}) {
  const auto routes = route(at::linear(x, router), config(false).router);
  const auto chosen = kept_TK.defined() ? routes.weights_TK * kept_TK.ge(0) : routes.weights_TK;
  auto weights = at::zeros({x.size(0), kExperts}, at::kDouble);
  weights = weights.scatter(1, routes.ids_TK, chosen);
  auto y = at::zeros_like(x);
  for (std::int64_t e = 0; e < kExperts; ++e)
    y = y + weights.select(1, e).unsqueeze(1) *
                swiglu_mlp(all, "experts." + std::to_string(e) + '.', x);
  if (!shared) return y;
  const auto gate = at::linear(x, all.at("shared_expert_gate.weight").to(at::kDouble)).sigmoid();
  return y + gate * swiglu_mlp(all, "shared_expert.", x);
}

/// A block's answer to x and gradient from dy against plain(), to which x and router are exact.
void check_against_plain(const at::Tensor& y, const at::Tensor& dy, const at::Tensor& x,
                         MoeBlock& block, const Tensors& all, bool shared,
                         const at::Tensor& kept_TK = {}) {
  auto exact_x = x.detach().to(at::kDouble).requires_grad_();
  auto router = all.at("gate.weight").detach().to(at::kDouble).requires_grad_();
  const auto exact = plain(all, exact_x, router, shared, kept_TK);
  exact.backward(dy.to(at::kDouble));
  CHECK(at::allclose(y.detach().to(at::kDouble), exact.detach(), 1e-5, 1e-5));
  CHECK(at::allclose(x.grad().to(at::kDouble), exact_x.grad(), 1e-5, 1e-5));
  CHECK(at::allclose(block.gate().weight().grad().to(at::kDouble), router.grad(), 1e-5, 1e-5));
}

struct Run {
  Batch batch;
  LayerContext context{batch, {}};
};

}  // namespace

TEST_CASE("a sparse block equals all its experts weighted, forward and backward", "[models]") {
  at::manual_seed(0);
  const bool shared = GENERATE(false, true);
  MoeBlock block(config(shared), 3);
  Tensors all;
  load(block, all);
  block.finish_loading(Arithmetic::Float32);
  block.gate().weight().requires_grad_();
  auto x = at::randn({40, kHidden}).requires_grad_();
  const auto dy = at::randn({40, kHidden});
  Run run;
  const auto y = block.forward(x, run.context);
  y.backward(dy);
  check_against_plain(y, dy, x, block, all, shared);
}

TEST_CASE("a full expert drops tokens as if it had weighed 0", "[models]") {
  at::manual_seed(4);
  const bool shared = GENERATE(false, true);
  MoeBlock block(config(shared), 3);
  Tensors all;
  load(block, all);
  block.finish_loading(Arithmetic::Float32);
  block.gate().weight().requires_grad_();
  auto x = at::randn({40, kHidden}).requires_grad_();
  const auto dy = at::randn({40, kHidden});
  RoutingTrace trace;
  Run run;
  run.batch.document_offsets = {0, 25, 40};
  run.batch.expert_capacity.factor = 0.7;
  run.batch.trace = &trace;
  const auto y = block.forward(x, run.context);
  y.backward(dy);
  const auto& kept_TK = trace.layers.at(3).kept_TK;
  CHECK(kept_TK.lt(0).sum().item<std::int64_t>() >= 80 - 6 * (6 + 4));
  check_against_plain(y, dy, x, block, all, shared, kept_TK);
}

TEST_CASE("a block of equal experts is one dense MLP", "[models]") {
  at::manual_seed(1);
  MoeBlock block(config(false), 0);
  SwiGluMlp mlp(kHidden, kWidth, false);
  Tensors one;
  load(mlp, one);
  for (const auto& p : block.parameters()) {
    const auto name = p.name.substr(0, p.name.find_last_of('.'));
    const auto projection = name.substr(name.find_last_of('.') + 1);
    *p.value = p.name == "gate.weight" ? at::randn(p.shape) : one.at(projection + ".weight");
  }
  block.finish_loading(Arithmetic::Float32);
  mlp.finish_loading(Arithmetic::Float32);
  const auto x = at::randn({9, kHidden});
  Run run;
  CHECK(at::allclose(block.forward(x, run.context), mlp.forward(x), 1e-5, 1e-6));
}

TEST_CASE("a trace that is asked for holds what the router said", "[models]") {
  at::manual_seed(2);
  MoeBlock block(config(false), 3);
  Tensors all;
  load(block, all);
  block.finish_loading(Arithmetic::Float32);
  const auto x = at::randn({5, kHidden});
  RoutingTrace trace;
  Run run;
  run.batch.trace = &trace;
  block.forward(x, run.context);
  REQUIRE(trace.layers.size() == 1);
  const auto& layer = trace.layers.at(3);
  CHECK(at::allclose(layer.logits_TE, at::linear(x, all.at("gate.weight"))));
  CHECK(layer.ids_TK.equal(route(layer.logits_TE, config(false).router).ids_TK));
}

TEST_CASE("parts of the width add up, and a range of experts answers for its rows", "[models]") {
  at::manual_seed(3);
  Experts whole(config(false)), left(config(false)), right(config(false)), some(config(false));
  left.keep({0, kExperts}, 0, 2);
  right.keep({0, kExperts}, 1, 2);
  some.keep({2, 3});
  Tensors all;
  for (auto* experts : {&whole, &left, &right, &some}) {
    load(*experts, all);
    experts->finish_loading(Arithmetic::Float32);
  }
  const std::vector<std::int64_t> offsets{0, 4, 4, 9, 20, 21, 30};
  const auto x = at::randn({30, kHidden});
  const auto y = whole.forward(x, offsets);
  CHECK(at::allclose(left.forward(x, offsets) + right.forward(x, offsets), y, 1e-5, 1e-5));
  const auto rows = some.forward(x.narrow(0, 4, 17), std::vector<std::int64_t>{0, 5, 16, 17});
  CHECK(at::allclose(rows, y.narrow(0, 4, 17), 1e-5, 1e-5));
  std::vector<std::string> names;
  for (const auto& p : some.parameters()) names.push_back(p.name);
  CHECK(names ==
        std::vector<std::string>{"2.gate_proj.weight", "3.gate_proj.weight", "4.gate_proj.weight",
                                 "2.up_proj.weight", "3.up_proj.weight", "4.up_proj.weight",
                                 "2.down_proj.weight", "3.down_proj.weight", "4.down_proj.weight"});
}
