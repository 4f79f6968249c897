// E experts, D hidden size, T tokens, K experts of a token.
#include "models/files/balance_router.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/std.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <tuple>

namespace tailor::models {
namespace {

constexpr int kRounds = 3;          // offsets are refitted where the direction missed them
constexpr int kSteps = 400;         // of one round
constexpr double kFirstStep = 0.2;  // of the logits' spread; the last is a hundredth of it
constexpr double kRidge = 1e-3;     // of the mean square of the inputs
constexpr double kAlike = 1e-6;     // share of the inputs by which they differ: rounding of float32

/// How much more often than the mean each expert is chosen, in shares of the mean: (E).
at::Tensor excess(const at::Tensor& logits_TE, std::int64_t k) {
  const auto num_experts = logits_TE.size(1);
  const auto ids = std::get<1>(logits_TE.topk(k, 1)).reshape({-1});
  const auto counts_E = ids.bincount({}, num_experts).to(at::kDouble);
  return counts_E / counts_E.mean() - 1.0;
}

/// Offsets (E) that even out the choice among logits.
at::Tensor offsets(const at::Tensor& logits_TE, std::int64_t k) {
  const auto spread = logits_TE.std().item<double>();
  auto offsets_E = at::zeros({logits_TE.size(1)}, at::kDouble);
  for (int step = 0; step < kSteps; ++step) {
    const auto rate = kFirstStep * spread * std::pow(0.01, static_cast<double>(step) / kSteps);
    offsets_E -= rate * excess(logits_TE + offsets_E, k).clamp(-1.0, 1.0);
  }
  return offsets_E - offsets_E.mean();
}

/// The vector d (D) with X d nearest to one.
at::Tensor constant_direction(const at::Tensor& x_TD) {
  const auto gram_DD = at::matmul(x_TD.t(), x_TD) / x_TD.size(0);
  const auto ridge = kRidge * gram_DD.diagonal().mean().item<double>();
  return at::linalg_solve(gram_DD + ridge * at::eye(x_TD.size(1), at::kDouble), x_TD.mean(0));
}

}  // namespace

at::Tensor balance_router(const at::Tensor& router_ED, const at::Tensor& x_TD,
                          std::int64_t num_experts_per_tok) {
  TORCH_CHECK_VALUE(x_TD.dim() == 2 && x_TD.size(0) >= 2 && x_TD.size(1) == router_ED.size(1),
                    "balance_router: expected at least two tokens of size ", router_ED.size(1),
                    ", found ", x_TD.sizes());
  const auto x = x_TD.to(at::kDouble);
  auto router = router_ED.to(at::kDouble);
  const auto mean_D = x.mean(0);
  if ((x - mean_D).norm().item<double>() <= kAlike * x.norm().item<double>()) return router_ED;
  router -= at::matmul(router, mean_D).unsqueeze(1) * mean_D / mean_D.square().sum();
  const auto spread_E1 = at::matmul(x, router.t()).std(0).unsqueeze(1);
  router *= spread_E1.mean() / spread_E1;

  const auto direction_D = constant_direction(x);
  for (int round = 0; round < kRounds; ++round) {
    const auto offsets_E = offsets(at::matmul(x, router.t()), num_experts_per_tok);
    router += offsets_E.unsqueeze(1) * direction_D;
  }
  return router.to(router_ED.scalar_type());
}

}  // namespace tailor::models
