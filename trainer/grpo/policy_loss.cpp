#include "trainer/grpo/policy_loss.hpp"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "trainer/grpo/kl.hpp"

namespace tailor::trainer {
namespace {

/// A token's loss and its derivatives, by ln r and by the log-probability where it stands itself.
struct Term {
  double value = 0.0, by_log_ratio = 0.0, by_logprob = 0.0;

  Term& operator+=(const Term& other) {
    value += other.value, by_log_ratio += other.by_log_ratio, by_logprob += other.by_logprob;
    return *this;
  }
};

Term operator*(double factor, const Term& term) {
  return {factor * term.value, factor * term.by_log_ratio, factor * term.by_logprob};
}

Term clipped(double ratio, double advantage, const GrpoConfig& config) {
  const auto low = 1.0 - config.epsilon, high = 1.0 + config.clip_high();
  const auto cap = config.delta.value_or(std::numeric_limits<double>::infinity());
  const auto moving = -advantage * ratio;
  const Term free{-advantage * std::min(ratio, cap), ratio <= cap ? moving : 0.0};
  const Term bounded{-advantage * std::clamp(ratio, low, high),
                     ratio >= low && ratio <= high ? moving : 0.0};
  const auto& worse = free.value >= bounded.value ? free : bounded;
  if (config.dual_clip && advantage < 0.0 && worse.value > -*config.dual_clip * advantage)
    return {-*config.dual_clip * advantage};
  return worse;
}

Term soft_gate(double ratio, double advantage, const GrpoConfig& config) {
  const auto tau = advantage > 0.0 ? config.sapo_temperature_pos : config.sapo_temperature_neg;
  const auto gate = 1.0 / (1.0 + std::exp(-tau * (ratio - 1.0)));
  return {-4.0 / tau * gate * advantage, -4.0 * advantage * ratio * gate * (1.0 - gate)};
}

/// -sg[weight] A lp
Term weighted_logprob(double weight, double advantage, double logprob) {
  return {-weight * advantage * logprob, 0.0, -weight * advantage};
}

/// What of the tensors is needed, by row.
struct BatchRows {
  BatchRows(const PolicyBatch& batch, std::int64_t size)
      : mask("mask_S", batch.mask_S, size),
        logprobs("logprobs_S", batch.logprobs_S, size),
        old(batch.old_S.defined() ? Rows("old_S", batch.old_S, size) : logprobs),
        sampler(batch.sampler_S.defined() ? Rows("sampler_S", batch.sampler_S, size) : old) {
    if (batch.reference_S.defined()) reference.emplace("reference_S", batch.reference_S, size);
    if (batch.weights_S.defined()) weights.emplace("weights_S", batch.weights_S, size);
    if (batch.policy_mask_S.defined())
      policy_mask.emplace("policy_mask_S", batch.policy_mask_S, size);
  }

  double weight(std::int64_t t) const { return weights ? (*weights)[t] : 1.0; }
  double log_ratio(std::int64_t t) const { return logprobs[t] - old[t]; }

  Rows mask, logprobs, old, sampler;
  std::optional<Rows> reference, weights, policy_mask;
};

/// ln r within the limit, and whether it was.
struct LogRatio {
  explicit LogRatio(double difference)
      : value(std::clamp(difference, -kLogRatioLimit, kLogRatioLimit)),
        ratio(std::exp(value)),
        live(value == difference) {}

  double value, ratio;
  bool live;
};

struct Response {
  std::int64_t begin, end;
  double advantage;
  double length = 0.0;       // loss tokens
  double log_ratio = 0.0;    // mean
  double drift = 0.0;        // mean of sampler - logprob
  double log_product = 0.0;  // sum of ln r and of ln weights, as vespo bounds them
  double scale = 0.0;        // of its sum in the loss
};

class Calculation {
 public:
  Calculation(const PolicyBatch& batch, const GrpoConfig& config, const Normalizer& normalizer)
      : batch_(batch),
        config_(config),
        normalizer_(normalizer),
        size_(batch.offsets.back()),
        rows_(batch, size_) {
    losses_ = at::zeros({size_}, at::kDouble);
    gradient_ = at::zeros({size_}, at::kDouble);
  }

  PolicyLoss run() {
    for (std::size_t i = 0; i < batch_.advantages.size(); ++i) {
      const auto response = summary(i);
      if (response.length > 0.0) add(response);
    }
    out_.losses_S = losses_;
    out_.dlogprobs_S = gradient_.to(batch_.logprobs_S.options());
    return std::move(out_);
  }

 private:
  Response summary(std::size_t i) const {
    Response out{batch_.offsets[i], batch_.offsets[i + 1], batch_.advantages[i]};
    for (auto t = out.begin; t < out.end; ++t) {
      if (rows_.mask[t] == 0.0) continue;
      out.length += 1.0;
      out.log_ratio += rows_.log_ratio(t);
      out.drift += rows_.sampler[t] - rows_.logprobs[t];
      out.log_product += LogRatio(rows_.log_ratio(t)).value +
                         std::clamp(std::log(rows_.weight(t)), kVespoLowest, kLogRatioLimit);
    }
    if (out.length == 0.0) return out;
    out.log_ratio /= out.length;
    out.drift /= out.length;
    out.scale = 1.0 / divisor(config_.loss_type, out.length, normalizer_);
    return out;
  }

  void add(const Response& response) {
    const auto by_sequence = config_.importance_sampling_level == RatioLevel::Sequence;
    const auto dropped = config_.off_policy_mask_threshold && response.advantage < 0.0 &&
                         response.drift > *config_.off_policy_mask_threshold;
    const LogRatio of_sequence(response.log_ratio);
    const auto phi = vespo_phi(response);
    auto* losses = losses_.mutable_data_ptr<double>();
    auto* gradient = gradient_.mutable_data_ptr<double>();
    double shared = 0.0;  // by ln s
    ClipCount count;
    for (auto t = response.begin; t < response.end; ++t) {
      if (rows_.mask[t] == 0.0) continue;
      const auto ratio = by_sequence ? of_sequence : LogRatio(rows_.log_ratio(t));
      auto term = dropped ? Term{} : policy_factor(t) * policy_term(t, ratio, response, phi);
      term += kl_part(t, ratio.ratio);
      if (!ratio.live) term.by_log_ratio = 0.0;
      shared += term.by_log_ratio;
      losses[t] = term.value;
      gradient[t] = response.scale * (term.by_logprob + (by_sequence ? 0.0 : term.by_log_ratio));
      out_.loss += response.scale * term.value;
      observe_token(t);
      if (!by_sequence) count_ratio(ratio, response.advantage, count);
    }
    if (by_sequence) {
      count_ratio(of_sequence, response.advantage, count);
      for (auto t = response.begin; t < response.end; ++t)
        if (rows_.mask[t] != 0.0) gradient[t] += response.scale * shared / response.length;
    }
    observe_response(count, phi, dropped);
  }

  Term policy_term(std::int64_t t, const LogRatio& ratio, const Response& response,
                   double phi) const {
    const auto advantage = response.advantage;
    const auto logprob = rows_.logprobs[t];
    switch (config_.loss_type) {
      case LossType::Grpo:
      case LossType::Dapo:
      case LossType::DrGrpo:
      case LossType::Bnpo:
      case LossType::Luspo:
        return clipped(ratio.ratio, advantage, config_);
      case LossType::Sapo:
        return soft_gate(ratio.ratio, advantage, config_);
      case LossType::Cispo:
        return weighted_logprob(std::min(ratio.ratio, config_.clip_high()), advantage, logprob);
      case LossType::MiniRl: {
        if (is_low(ratio.ratio, advantage) || is_high(ratio.ratio, advantage)) return {};
        const LogRatio to_sampler(logprob - rows_.sampler[t]);
        return weighted_logprob(std::min(to_sampler.ratio, kMiniRlCap), advantage, logprob);
      }
      case LossType::Vespo:
        return weighted_logprob(phi, advantage, logprob);
    }
    return {};
  }

  double policy_factor(std::int64_t t) const {
    const auto masked = rows_.policy_mask ? (*rows_.policy_mask)[t] : 1.0;
    return holds_correction(config_.loss_type) ? masked : masked * rows_.weight(t);
  }

  Term kl_part(std::int64_t t, double ratio) const {
    if (!rows_.reference || config_.beta == 0.0 || config_.kl_in != KlPlace::Loss) return {};
    const auto kl = kl_term(config_.kl_estimator, rows_.logprobs[t] - (*rows_.reference)[t]);
    if (!config_.use_bias_correction_kl) return config_.beta * Term{kl.value, 0.0, kl.gradient};
    const auto weight = config_.beta * ratio;
    return weight * Term{kl.value, kl.value, kl.gradient};
  }

  double vespo_phi(const Response& response) const {
    if (config_.loss_type != LossType::Vespo) return 0.0;
    const auto positive = response.advantage >= 0.0;
    const auto k = positive ? config_.vespo_k_pos : config_.vespo_k_neg;
    const auto lambda = positive ? config_.vespo_lambda_pos : config_.vespo_lambda_neg;
    const auto log_w = std::clamp(response.log_product, kVespoLowest, kLogRatioLimit);
    return std::exp(lambda + k * log_w - lambda * std::exp(log_w));
  }

  bool is_low(double ratio, double advantage) const {
    return ratio < 1.0 - config_.epsilon && advantage < 0.0;
  }
  bool is_high(double ratio, double advantage) const {
    const auto bound = config_.loss_type == LossType::Cispo ? 0.0 : 1.0;
    return ratio > bound + config_.clip_high() && advantage > 0.0;
  }

  struct ClipCount {
    double low = 0.0, high = 0.0, ratios = 0.0;
  };

  void count_ratio(const LogRatio& ratio, double advantage, ClipCount& count) {
    count.low += is_low(ratio.ratio, advantage) ? 1.0 : 0.0;
    count.high += is_high(ratio.ratio, advantage) ? 1.0 : 0.0;
    count.ratios += 1.0;
    out_.sums.ratio += ratio.ratio;
    out_.sums.ratio_max = std::max(out_.sums.ratio_max, ratio.ratio);
    if (!ratio.live) out_.sums.num_clamped += 1.0;
  }

  void observe_token(std::int64_t t) {
    auto& sums = out_.sums;
    const auto difference = std::abs(rows_.log_ratio(t));
    sums.logprob_difference += difference;
    sums.logprob_difference_max = std::max(sums.logprob_difference_max, difference);
    sums.approx_kl += kl_term(KlEstimator::K3, -rows_.log_ratio(t)).value;
    if (rows_.reference)
      sums.kl += kl_term(KlEstimator::K3, rows_.logprobs[t] - (*rows_.reference)[t]).value;
    sums.tokens += 1.0;
  }

  void observe_response(const ClipCount& count, double phi, bool dropped) {
    auto& sums = out_.sums;
    sums.sequences += 1.0;
    sums.clip_low += count.low, sums.clip_high += count.high, sums.num_ratios += count.ratios;
    sums.clip_low_min = std::min(sums.clip_low_min, count.low / count.ratios);
    sums.clip_high_max = std::max(sums.clip_high_max, count.high / count.ratios);
    sums.vespo_phi += phi;
    if (dropped) sums.num_dropped += 1.0;
  }

  const PolicyBatch& batch_;
  const GrpoConfig& config_;
  const Normalizer& normalizer_;
  std::int64_t size_;
  BatchRows rows_;
  at::Tensor losses_, gradient_;
  PolicyLoss out_;
};

}  // namespace

double divisor(LossType type, double length, const Normalizer& normalizer) {
  switch (type) {
    case LossType::Grpo:
    case LossType::Sapo:
      return length * normalizer.sequences;
    case LossType::Bnpo:
    case LossType::Dapo:
    case LossType::Cispo:
    case LossType::Vespo:
      return normalizer.tokens;
    case LossType::DrGrpo:
      return normalizer.sequences * normalizer.max_length;
    case LossType::MiniRl:
    case LossType::Luspo:
      return normalizer.sequences;
  }
  return normalizer.tokens;
}

PolicySums& PolicySums::operator+=(const PolicySums& other) {
  tokens += other.tokens, sequences += other.sequences;
  clip_low += other.clip_low, clip_high += other.clip_high, num_ratios += other.num_ratios;
  clip_low_min = std::min(clip_low_min, other.clip_low_min);
  clip_high_max = std::max(clip_high_max, other.clip_high_max);
  ratio += other.ratio;
  ratio_max = std::max(ratio_max, other.ratio_max);
  kl += other.kl, approx_kl += other.approx_kl;
  logprob_difference += other.logprob_difference;
  logprob_difference_max = std::max(logprob_difference_max, other.logprob_difference_max);
  num_clamped += other.num_clamped, num_dropped += other.num_dropped;
  vespo_phi += other.vespo_phi;
  return *this;
}

PolicyLoss policy_loss(const PolicyBatch& batch, const GrpoConfig& config,
                       const Normalizer& normalizer) {
  check_responses(batch);
  return Calculation(batch, config, normalizer).run();
}

std::vector<double> response_kl(const std::vector<std::int64_t>& offsets, const at::Tensor& mask_S,
                                const at::Tensor& old_S, const at::Tensor& reference_S) {
  const auto size = offsets.back();
  const Rows mask("mask_S", mask_S, size), old("old_S", old_S, size),
      reference("reference_S", reference_S, size);
  std::vector<double> sums(offsets.size() - 1, 0.0);
  for (std::size_t i = 0; i < sums.size(); ++i)
    for (auto t = offsets[i]; t < offsets[i + 1]; ++t)
      if (mask[t] != 0.0) sums[i] += kl_term(KlEstimator::K1, old[t] - reference[t]).value;
  return sums;
}

}  // namespace tailor::trainer
