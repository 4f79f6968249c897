#include "trainer/grpo/tripwires.hpp"

#include <algorithm>
#include <cstdio>

#include "configs/reader.hpp"

namespace tailor::trainer {
namespace {

using configs::number_text;

std::string at_step(std::int64_t step) { return "step " + std::to_string(step) + ": "; }

std::string measured(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

/// NaN is beyond every limit.
bool is_beyond(double value, double limit) { return !(value <= limit); }

}  // namespace

double mismatch_limit(const GrpoConfig& config, models::kernels::Arithmetic arithmetic) {
  if (config.mismatch_limit) return *config.mismatch_limit;
  return arithmetic == models::kernels::Arithmetic::Float32 ? kMismatchLimitFloat32
                                                            : kMismatchLimitBFloat16;
}

std::optional<std::string> why_apart(const UpdateReport& report, const GrpoConfig& config,
                                     double limit, const WatchedUpdate& update) {
  const bool bypasses = config.importance_sampling_correction == Correction::Bypass;
  if (limit == 0.0 || !update.is_first || (update.has_moved && bypasses)) return {};
  const auto allowed = ", above grpo.mismatch_limit " + number_text(limit);
  const double apart = report.mismatch.mean_difference();
  if (is_beyond(apart, limit))
    return at_step(update.step) +
           "the log-probabilities of the sampler and of the trainer differ by " + measured(apart) +
           " in the mean" + allowed +
           ": the same weights gave both, unless the adapter does not reach the sampler";
  if (update.has_moved) return {};
  const double tokens = std::max(report.policy.tokens, 1.0);
  const double drift = report.policy.logprob_difference / tokens;
  if (is_beyond(drift, limit))
    return at_step(update.step) + "the log-probabilities of a batch's first update differ by " +
           measured(drift) + " in the mean from those before it" + allowed +
           ": the same weights gave both";
  const double kl = report.policy.kl / tokens;
  if (update.was_base && config.asks_reference() && is_beyond(kl, limit * limit))
    return at_step(update.step) +
           "the divergence of the fresh adapter, which changes nothing, "
           "from the reference is " +
           measured(kl) + ", above the square of grpo.mismatch_limit " + number_text(limit);
  return {};
}

std::optional<std::string> why_far(const UpdateReport& report, const GrpoConfig& config,
                                   const WatchedUpdate& update, GuardCounts& counts) {
  const bool from_reference = config.asks_reference();
  const bool from_sampling = !update.is_first || update.has_moved;
  if (config.kl_limit == 0.0 || report.policy.tokens == 0.0) return {};
  if (!from_reference && !from_sampling) return {};
  const double kl =
      (from_reference ? report.policy.kl : report.policy.approx_kl) / report.policy.tokens;
  counts.above_kl_limit = is_beyond(kl, config.kl_limit) ? counts.above_kl_limit + 1 : 0;
  if (counts.above_kl_limit < config.kl_patience) return {};
  return at_step(update.step) + "the divergence from the " +
         (from_reference ? "reference" : "weights that sampled") + " is " + measured(kl) +
         ", above grpo.kl_limit " + number_text(config.kl_limit) + " for " +
         std::to_string(counts.above_kl_limit) +
         " steps in a row; a lower learning rate or a larger grpo.beta may help";
}

std::optional<std::string> why_flat(bool has_spread, const GrpoConfig& config, std::int64_t step,
                                    GuardCounts& counts) {
  counts.without_spread = has_spread ? 0 : counts.without_spread + 1;
  if (config.zero_spread_patience == 0 || counts.without_spread < config.zero_spread_patience)
    return {};
  return at_step(step) + "for " + std::to_string(counts.without_spread) +
         " batches no prompt had completions of different rewards: there is nothing to learn "
         "from; look at completions.jsonl for prompts that are too hard or too easy and for "
         "samples that no reward scored (grpo.zero_spread_patience)";
}

}  // namespace tailor::trainer
