#pragma once

#include "trainer/grpo/grpo_config.hpp"

namespace tailor::trainer {

/// |ln p - ln q| beyond this is taken as this, so that no exponential overflows (as verl does). The
/// gradient there is 0.
constexpr double kLogRatioLimit = 20.0;

struct KlTerm {
  double value;
  double gradient;  // by the policy's log-probability
};

/// One token's estimate of KL(policy, reference), from u = ln policy - ln reference of a token that
/// the policy drew (Schulman 2020, "Approximating KL divergence"):
///   k1  u                    gradient 1
///   k2  u^2 / 2              gradient u
///   k3  exp(-u) - 1 + u      gradient 1 - exp(-u), u within kLogRatioLimit
/// k1+ and k3+ have these values and the gradient of k2, whose mean is that of KL(policy,
/// reference).
KlTerm kl_term(KlEstimator estimator, double u);

}  // namespace tailor::trainer
