// The forms of kernels that serve on devices, on tensors in host memory, against the kernels there.
#include "models/kernels/plain.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <limits>
#include <vector>

#include "cached_tokens.hpp"
#include "models/kernels/cuda/element_maths.hpp"
#include "models/kernels/grouped_gemm.hpp"
#include "models/kernels/rms_norm.hpp"
#include "models/kernels/rotary.hpp"
#include "models/kernels/swiglu.hpp"
#include "models/kernels/token_copies.hpp"
#include "models/kernels/token_loss.hpp"
#include "models/layers/expert_exchange.hpp"

using namespace tailor::models;
using namespace tailor::models::kernels;

namespace {

/// float32: sums in another order; bfloat16: one rounding more or less.
bool close(const at::Tensor& a, const at::Tensor& b) {
  const double tolerance = b.scalar_type() == at::kBFloat16 ? 1.6e-2 : 2e-5;
  return at::allclose(a.to(at::kDouble), b.to(at::kDouble), tolerance, tolerance);
}

at::Tensor chosen_experts(std::int64_t tokens, std::int64_t experts, std::int64_t slots) {
  return at::rand({tokens, experts}).argsort(/*stable=*/false, 1).narrow(1, 0, slots).contiguous();
}

}  // namespace

TEST_CASE("element-wise kernels have the same answers in plain operations", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto x = at::randn({7, 40}, dtype), delta = at::randn({7, 40}, dtype),
             dy = at::randn({7, 40}, dtype), weight = at::rand({40}) + 0.5;
  const auto host = rms_norm(x, delta, weight, 1e-5);
  const auto other = rms_norm_reference(x, delta, weight, 1e-5);
  CHECK(close(other.h_TD, host.h_TD));
  CHECK(close(other.y_TD, host.y_TD));
  CHECK(close(other.rstd_T, host.rstd_T));
  CHECK(close(rms_norm_backward_reference(dy, x, host.h_TD, weight, host.rstd_T),
              rms_norm_backward(dy, x, host.h_TD, weight, host.rstd_T)));

  CHECK(close(swiglu_reference(x, delta), swiglu(x, delta)));
  const auto expected = swiglu_backward(dy, x, delta), found = plain::swiglu_backward(dy, x, delta);
  CHECK(close(found.first, expected.first));
  CHECK(close(found.second, expected.second));

  const auto heads = x.view({7, 4, 10}), angles = at::randn({7, 5});
  for (const bool inverse : {false, true})
    CHECK(close(rotate_reference(heads, angles.cos(), angles.sin(), inverse),
                rotate(heads, angles.cos(), angles.sin(), inverse)));

  auto logits = x.clone(), same = x.clone();
  const auto target = at::rand({7}).mul(40).to(at::kLong);
  const auto losses = token_loss_reference_(logits, target, /*gradient=*/true);
  const auto of_host = token_loss_(same, target, /*gradient=*/true);
  CHECK(close(losses.loss_C, of_host.loss_C));
  CHECK(at::equal(losses.correct_C, of_host.correct_C));
  CHECK(close(logits, same));
}

TEST_CASE("tokens are sorted, copied and added up alike in plain operations", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  auto ids = chosen_experts(13, 6, 3);
  if (GENERATE(true, false)) ids.select(0, 4).fill_(-1).select(0, 0).fill_(2);  // two go nowhere
  const auto sorted = sort_by_expert(ids, 6), plainly = sort_by_expert_plainly(ids, 6);
  CHECK(plainly.row_offsets == sorted.row_offsets);
  CHECK(at::equal(plainly.row_of_TK, sorted.row_of_TK));
  CHECK_THROWS_AS(sort_by_expert_plainly(ids, 4), c10::ValueError);

  const auto x = at::randn({13, 20}, dtype), dy = at::randn({13, 20}, dtype),
             weights = at::rand({13, 3});
  const auto& row_of = sorted.row_of_TK;
  const auto num_rows = sorted.row_offsets.back();
  const auto copies = copy_tokens(x, row_of, num_rows);
  CHECK(at::equal(plain::copy_tokens(x, row_of, num_rows), copies));
  CHECK(close(plain::sum_copies(copies, row_of, weights), sum_copies(copies, row_of, weights)));
  CHECK(close(plain::sum_copies(copies, row_of, {}), sum_copies(copies, row_of)));
  const auto expected = sum_copies_backward(dy, copies, row_of, weights),
             found = plain::sum_copies_backward(dy, copies, row_of, weights);
  CHECK(close(found.first, expected.first));
  CHECK(close(found.second, expected.second));
}

TEST_CASE("attention in plain operations equals the host's, shared prefixes included", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t value_dim = GENERATE(16, 8), kv_heads = GENERATE(6, 2);
  // More than a block of queries, documents without tokens, a prefix that two others see.
  const std::vector<std::int64_t> offsets{0, 150, 750, 751, 751, 760, 790};
  const std::vector<std::int64_t> prefixes{-1, 0, -1, -1, 0, 2};
  const bool shared = GENERATE(true, false);
  CAPTURE(c10::toString(dtype), value_dim, kv_heads, shared);
  const auto q = at::randn({790, 6, 16}, dtype), k = at::randn({790, kv_heads, 16}, dtype),
             v = at::randn({790, kv_heads, value_dim}, dtype),
             dout = at::randn({790, 6, value_dim}, dtype);
  const std::vector<std::int64_t> none;
  const Documents of{offsets, shared ? std::span<const std::int64_t>(prefixes)
                                     : std::span<const std::int64_t>(none)};
  const auto host = block_attention(q, k, v, of, 0.3);
  const auto found = plain::block_attention(q, k, v, of, 0.3);
  CHECK(close(found.out_TNV, host.out_TNV));
  CHECK(close(found.log_sum_TN, host.log_sum_TN));
  const auto expected = block_attention_backward(dout, q, k, v, host, of, 0.3);
  const auto gradients = plain::block_attention_backward(dout, q, k, v, host, of, 0.3);
  const auto alike = [&](const at::Tensor& a, const at::Tensor& b) {  // sums of many documents
    const double tolerance = dtype == at::kFloat ? 1e-4 : 6e-2;
    return at::allclose(a.to(at::kDouble), b.to(at::kDouble), tolerance, tolerance);
  };
  CHECK(alike(gradients.dq_TNH, expected.dq_TNH));
  CHECK(alike(gradients.dk_TKH, expected.dk_TKH));
  CHECK(alike(gradients.dv_TKV, expected.dv_TKV));
}

TEST_CASE("attention over a cache in plain operations equals the host's", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  CAPTURE(c10::toString(dtype));
  const CachedTokens tokens(dtype);
  const auto& [first, second, third, sequences, host, q, k, v] = tokens;
  // Memory that nothing was written to.
  for (auto* x : {&host.keys_BKPH, &host.values_BKPH})
    x->select(0, 8).fill_(std::numeric_limits<double>::quiet_NaN());
  const CacheBlocks other{host.keys_BKPH.clone(), host.values_BKPH.clone()};
  append_to_cache(k, v, host, sequences);
  plain::append_to_cache(k, v, other, sequences);
  CHECK(at::allclose(other.keys_BKPH, host.keys_BKPH, 0, 0, /*equal_nan=*/true));
  CHECK(at::allclose(other.values_BKPH, host.values_BKPH, 0, 0, /*equal_nan=*/true));
  CHECK(close(plain::cached_attention(q, other, sequences, 0.4),
              cached_attention(q, host, sequences, 0.4)));
}

TEST_CASE("products of all experts are the same one by one and together", "[models]") {
  at::manual_seed(0);
  const bool lie_together = GENERATE(true, false);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t out = GENERATE(24, 20);  // 20: no product of all at once takes it
  CAPTURE(lie_together, c10::toString(dtype), out);
  const auto arithmetic = dtype == at::kFloat ? Arithmetic::Float32 : Arithmetic::BFloat16;
  const std::vector<std::int64_t> offsets{0, 0, 5, 6, 40};
  const auto together = at::randn({4, out, 16}).to(dtype);
  std::vector<Weight> weights;
  for (std::int64_t e = 0; e < 4; ++e)
    weights.emplace_back(lie_together ? together[e] : together[e].clone(), arithmetic);
  const auto x = at::randn({40, 16}).to(dtype), dy = at::randn({40, out}).to(dtype);
  const auto y = plain::grouped_forward(x, offsets, weights);
  at::Tensor dx;
  plain::grouped_backward_(dx, dy, offsets, weights);
  auto twice = dx.clone();
  plain::grouped_backward_(twice, dy, offsets, weights);
  for (std::size_t e = 0; e < weights.size(); ++e) {
    const auto rows = [&](const at::Tensor& t) {
      return t.narrow(0, offsets[e], offsets[e + 1] - offsets[e]);
    };
    const auto w = weights[e].stored().to(at::kFloat);
    CHECK(close(rows(y), rows(x).to(at::kFloat).mm(w.t()).to(dtype)));
    CHECK(close(rows(dx), rows(dy).to(at::kFloat).mm(w).to(dtype)));
  }
  CHECK(close(twice, (dx.to(at::kFloat) * 2).to(dtype)));
}

TEST_CASE("what kernels for GPUs do with single numbers is right", "[models]") {
  at::manual_seed(0);
  const auto x = at::randn({200}) * 4, up = at::randn({200}), dy = at::randn({200});
  const auto expected = plain::swiglu_backward(dy, x, up);
  const auto y = swiglu_reference(x, up);
  element::SoftmaxSum all, halves[2];
  for (std::int64_t i = 0; i < 200; ++i) {
    const auto at = [&](const at::Tensor& t) { return t[i].item<float>(); };
    const auto d = element::swiglu_gradient(at(dy), at(x), at(up));
    CHECK(element::swiglu(at(x), at(up)) == Approx(at(y)).margin(1e-6));
    CHECK(d.gate == Approx(at(expected.first)).margin(1e-5));
    CHECK(d.up == Approx(at(expected.second)).margin(1e-5));
    all.add(at(x));
    halves[i % 2].add(at(x));
  }
  halves[0].merge(halves[1]);
  halves[0].merge({});
  for (const auto& sum : {all, halves[0]}) {
    CHECK(sum.top == x.max().item<float>());
    CHECK(sum.log_sum() == Approx(x.logsumexp(0).item<float>()));
  }
  const auto turned = element::turned({3.0F, 4.0F}, 0.0F, 1.0F);
  CHECK(turned.a == -4.0F);
  CHECK(turned.b == 3.0F);
}
