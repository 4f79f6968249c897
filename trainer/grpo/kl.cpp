#include "trainer/grpo/kl.hpp"

#include <algorithm>
#include <cmath>

namespace tailor::trainer {
namespace {

KlTerm k3(double u) {
  const auto within = std::clamp(u, -kLogRatioLimit, kLogRatioLimit);
  const auto rest = std::expm1(-within);
  return {rest + within, within == u ? -rest : 0.0};
}

}  // namespace

KlTerm kl_term(KlEstimator estimator, double u) {
  switch (estimator) {
    case KlEstimator::K1:
      return {u, 1.0};
    case KlEstimator::K2:
      return {u * u / 2, u};
    case KlEstimator::K3:
      return k3(u);
    case KlEstimator::K1Plus:
      return {u, u};
    case KlEstimator::K3Plus:
      return {k3(u).value, u};
  }
  return {};
}

}  // namespace tailor::trainer
