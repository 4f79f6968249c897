// Kernels on a GPU against those in host memory.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <optional>
#include <vector>

#include "cached_tokens.hpp"
#include "models/kernels/block_attention.hpp"
#include "models/kernels/cached_attention.hpp"
#include "models/kernels/grouped_gemm.hpp"
#include "models/kernels/rms_norm.hpp"
#include "models/kernels/rotary.hpp"
#include "models/kernels/swiglu.hpp"
#include "models/kernels/token_copies.hpp"
#include "models/kernels/token_loss.hpp"
#include "models/layers/expert_exchange.hpp"
#include "tests/support/gpu.hpp"

using namespace tailor::models;
using namespace tailor::models::kernels;

namespace {

at::Tensor on_gpu(const at::Tensor& x) { return x.to(at::Device(at::kCUDA, 0)); }

/// float32: sums in another order; bfloat16: roundings.
bool close(const at::Tensor& gpu, const at::Tensor& host, double times = 1.0) {
  const double tolerance = times * (host.scalar_type() == at::kBFloat16 ? 1.6e-2 : 2e-5);
  return gpu.is_cuda() &&
         at::allclose(gpu.cpu().to(at::kDouble), host.to(at::kDouble), tolerance, tolerance);
}

}  // namespace

TEST_CASE("element-wise kernels on a GPU equal those of the host", "[models]") {
  if (!tailor::tests::has_gpu()) return;
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t size = GENERATE(2, 40, 1000);
  CAPTURE(c10::toString(dtype), size);
  const auto x = at::randn({33, size}, dtype), delta = at::randn({33, size}, dtype),
             dy = at::randn({33, size}, dtype), weight = at::rand({size}) + 0.5;
  const auto gx = on_gpu(x), gdelta = on_gpu(delta), gdy = on_gpu(dy), gweight = on_gpu(weight);
  for (const bool adds : {true, false}) {
    const auto some = [&](const at::Tensor& t) { return adds ? std::optional(t) : std::nullopt; };
    const auto host = rms_norm(x, some(delta), weight, 1e-5);
    const auto gpu = rms_norm(gx, some(gdelta), gweight, 1e-5);
    CHECK(close(gpu.h_TD, host.h_TD));
    CHECK(close(gpu.y_TD, host.y_TD));
    CHECK(close(gpu.rstd_T, host.rstd_T));
    CHECK(close(rms_norm_backward(gdy, some(gx), gpu.h_TD, gweight, gpu.rstd_T),
                rms_norm_backward(dy, some(x), host.h_TD, weight, host.rstd_T)));
  }
  CHECK(close(swiglu(gx, gdelta), swiglu(x, delta)));
  const auto expected = swiglu_backward(dy, x, delta), found = swiglu_backward(gdy, gx, gdelta);
  CHECK(close(found.first, expected.first));
  CHECK(close(found.second, expected.second));

  const auto angles = at::randn({33, size / 2});
  const auto head = x.unsqueeze(1), ghead = gx.unsqueeze(1);
  for (const bool inverse : {false, true})
    CHECK(close(rotate(ghead, on_gpu(angles.cos()), on_gpu(angles.sin()), inverse),
                rotate(head, angles.cos(), angles.sin(), inverse)));

  auto logits = x.clone(), glogits = gx.clone();
  const auto target = at::rand({33}).mul(static_cast<double>(size)).to(at::kLong);
  const auto host = token_loss_(logits, target, /*gradient=*/true);
  const auto gpu = token_loss_(glogits, on_gpu(target), /*gradient=*/true);
  CHECK(close(gpu.loss_C, host.loss_C));
  CHECK(at::equal(gpu.correct_C.cpu(), host.correct_C));
  CHECK(close(glogits, logits));
}

TEST_CASE("tokens go to experts and back on a GPU as on the host", "[models]") {
  if (!tailor::tests::has_gpu()) return;
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto ids = at::rand({50, 8}).argsort(/*stable=*/false, 1).narrow(1, 0, 3).contiguous();
  ids.select(0, 4).fill_(-1);  // go nowhere
  const auto sorted = sort_by_expert(ids, 8), gsorted = sort_by_expert(on_gpu(ids), 8);
  CHECK(gsorted.row_offsets == sorted.row_offsets);
  CHECK(at::equal(gsorted.row_of_TK.cpu(), sorted.row_of_TK));
  const auto x = at::randn({50, 24}, dtype), dy = at::randn({50, 24}, dtype),
             weights = at::rand({50, 3});
  const auto copies = copy_tokens(x, sorted.row_of_TK, sorted.row_offsets.back());
  const auto gcopies = copy_tokens(on_gpu(x), gsorted.row_of_TK, sorted.row_offsets.back());
  CHECK(at::equal(gcopies.cpu(), copies));
  CHECK(close(sum_copies(gcopies, gsorted.row_of_TK, on_gpu(weights)),
              sum_copies(copies, sorted.row_of_TK, weights)));
  CHECK(close(sum_copies(gcopies, gsorted.row_of_TK), sum_copies(copies, sorted.row_of_TK)));
  const auto expected = sum_copies_backward(dy, copies, sorted.row_of_TK, weights);
  const auto found = sum_copies_backward(on_gpu(dy), gcopies, gsorted.row_of_TK, on_gpu(weights));
  CHECK(close(found.first, expected.first));
  CHECK(close(found.second, expected.second, /*times=*/4));
}

TEST_CASE("attention on a GPU equals the host's", "[models]") {
  if (!tailor::tests::has_gpu()) return;
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);  // bfloat16 without prefixes: flash
  const std::int64_t value_dim = GENERATE(64, 32);
  const bool shared = GENERATE(false, true);
  CAPTURE(c10::toString(dtype), value_dim, shared);
  const std::vector<std::int64_t> offsets{0, 100, 700, 700, 701, 760};
  const std::vector<std::int64_t> prefix_of =
      shared ? std::vector<std::int64_t>{-1, 0, -1, -1, 0} : std::vector<std::int64_t>{};
  const Documents documents{offsets, prefix_of};
  const auto q = at::randn({760, 6, 64}, dtype), k = at::randn({760, 2, 64}, dtype),
             v = at::randn({760, 2, value_dim}, dtype),
             dout = at::randn({760, 6, value_dim}, dtype);
  const auto host = block_attention(q, k, v, documents, 0.125);
  const auto gpu = block_attention(on_gpu(q), on_gpu(k), on_gpu(v), documents, 0.125);
  CHECK(close(gpu.out_TNV, host.out_TNV));
  const auto expected = block_attention_backward(dout, q, k, v, host, documents, 0.125);
  const auto found = block_attention_backward(on_gpu(dout), on_gpu(q), on_gpu(k), on_gpu(v), gpu,
                                              documents, 0.125);
  CHECK(close(found.dq_TNH, expected.dq_TNH, /*times=*/5));
  CHECK(close(found.dk_TKH, expected.dk_TKH, /*times=*/5));
  CHECK(close(found.dv_TKV, expected.dv_TKV, /*times=*/5));
}

TEST_CASE("products of experts on a GPU equal the host's", "[models]") {
  if (!tailor::tests::has_gpu()) return;
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto arithmetic = dtype == at::kFloat ? Arithmetic::Float32 : Arithmetic::BFloat16;
  const std::vector<std::int64_t> offsets{0, 0, 9, 10, 64};
  const auto together = (at::randn({4, 48, 32}) / 4).to(dtype), moved = on_gpu(together);
  std::vector<Weight> host, gpu;
  for (std::int64_t e = 0; e < 4; ++e) {
    host.emplace_back(together[e].to(at::kFloat), Arithmetic::Float32);
    gpu.emplace_back(moved[e], arithmetic);
  }
  const auto x = at::randn({64, 32}).to(dtype), dy = at::randn({64, 48}).to(dtype);
  CHECK(close(grouped_forward(on_gpu(x), offsets, gpu),
              grouped_forward(x.to(at::kFloat), offsets, host).to(dtype)));
  at::Tensor dx, gdx;
  grouped_backward_(dx, dy.to(at::kFloat), offsets, host);
  grouped_backward_(gdx, on_gpu(dy), offsets, gpu);
  CHECK(close(gdx, dx.to(dtype)));
}

TEST_CASE("attention over a cache on a GPU equals the host's", "[models]") {
  if (!tailor::tests::has_gpu()) return;
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const CachedTokens tokens(dtype);
  const auto& [first, second, third, sequences, host, q, k, v] = tokens;
  const CacheBlocks gpu{on_gpu(host.keys_BKPH), on_gpu(host.values_BKPH)};
  append_to_cache(k, v, host, sequences);
  append_to_cache(on_gpu(k), on_gpu(v), gpu, sequences);
  CHECK(at::equal(gpu.keys_BKPH.cpu(), host.keys_BKPH));
  CHECK(close(cached_attention(on_gpu(q), gpu, sequences, 0.4),
              cached_attention(q, host, sequences, 0.4)));
}
