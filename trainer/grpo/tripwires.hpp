#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "models/kernels/arithmetic.hpp"
#include "trainer/checkpoint/train_state.hpp"
#include "trainer/grpo/grpo_config.hpp"
#include "trainer/grpo/update.hpp"

namespace tailor::trainer {

/// What stops a GRPO job whose numbers say that something is wrong. Each answers why, for people,
/// or nothing: the caller reports the step first, so that the values that stopped it can be seen.

/// nats in the mean that sampler and trainer may be apart where the job does not say. Measured by
/// scripts/check_grpo_identities.py on SmolLM2-135M: in float32 7e-6 where it is unsure of every
/// token and 1e-6 behind supervised fine-tuning, with bfloat16 products 0.045 and 0.007 (0.05 with
/// its layers upcycled to 8 experts). Without the adapter of that fine-tuning it would be 1.5.
constexpr double kMismatchLimitFloat32 = 1e-3, kMismatchLimitBFloat16 = 0.2;
double mismatch_limit(const GrpoConfig& config, models::kernels::Arithmetic arithmetic);

/// An update that was made.
struct WatchedUpdate {
  std::int64_t step;
  bool is_first = true;    // of its batch
  bool has_moved = false;  // the weights, between sampling and it
  bool was_base = false;   // the policy before it: a fresh adapter, whose every B is zero
};

/// At the first update of a batch the same weights sampled and train: apart from rounding, the
/// sampler's log-probabilities are the trainer's, those measured before the update are those it
/// computes, and the divergence of an adapter that is zero from the reference, which is of second
/// order, is 0 (`limit` squared is allowed). Where an update reuses the sampler's forwards
/// (UpdateReport::num_reused) the comparison sees what is computed behind the linear layers alone:
/// whether the adapter reaches the sampler shows in batches that are computed in full, one in 16,
/// the first of the run among them; a fresh adapter, which changes nothing yet, from the 17th on.
/// With Bypass and weights that have moved there is nothing to compare with. `limit` 0: never.
std::optional<std::string> why_apart(const UpdateReport& report, const GrpoConfig& config,
                                     double limit, const WatchedUpdate& update);

/// A mean divergence above kl_limit, or NaN, at kl_patience steps in a row of those that measure
/// one: from the reference where it is asked, else from the weights that sampled the batch, which
/// is 0 by construction where these have not moved: of a batch's only update nothing is known.
std::optional<std::string> why_far(const UpdateReport& report, const GrpoConfig& config,
                                   const WatchedUpdate& update, GuardCounts& counts);

/// Batches in a row whose groups all lack spread; asked once a batch.
std::optional<std::string> why_flat(bool has_spread, const GrpoConfig& config, std::int64_t step,
                                    GuardCounts& counts);

}  // namespace tailor::trainer
