#include "models/generation/sampler.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "models/generation/softmax_sums.hpp"
#include "models/kernels/random.hpp"

namespace tailor::models {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  std::int64_t id;
};

struct Choice {
  std::size_t id;
  double logprob;  // in the distribution it was drawn from
};

/// Softmax of logits / temperature over all tokens.
struct Softmax {
  Softmax(std::span<const float> logits, double at_temperature)
      : largest(largest_of(logits)),
        temperature(at_temperature),
        sums(softmax_sums(logits, largest, temperature)),
        total(std::accumulate(sums.begin(), sums.end(), 0.0)) {}

  double mass(float logit) const {
    return std::exp(static_cast<double>(logit - largest) / temperature);
  }
  double logprob(float logit) const {
    return (static_cast<double>(logit) - largest) / temperature - std::log(total);
  }

  float largest;
  double temperature;
  std::vector<float> sums;  // of kSumChunk tokens each
  double total;
};

std::size_t index_of(std::span<const float> logits, float logit) {
  return static_cast<std::size_t>(
      std::distance(logits.begin(), std::find(logits.begin(), logits.end(), logit)));
}

Softmax raw_softmax(std::span<const float> logits) {
  TORCH_CHECK_VALUE(!logits.empty(), "sample: no logits");
  Softmax raw(logits, 1.0);
  if (!std::isfinite(raw.total) || !std::isfinite(raw.largest))
    throw NonFiniteLogits("the model's logits are not finite");
  return raw;
}

/// Keskar et al. 2019: logits of what was seen are divided by the penalty where positive, else
/// multiplied, each once.
void penalise(std::span<float> logits, std::span<const float> raw,
              std::span<const std::int64_t> seen, double penalty) {
  const auto by = static_cast<float>(penalty);
  for (const auto id : seen) {
    const auto i = static_cast<std::size_t>(id);
    if (i < logits.size()) logits[i] = raw[i] < 0 ? raw[i] * by : raw[i] / by;
  }
}

/// One of all tokens, at `u` (0 to 1) of the distribution's mass.
Choice draw(std::span<const float> logits, const Softmax& softmax, double u) {
  auto left = u * softmax.total;
  const auto& sums = softmax.sums;
  std::size_t chunk = 0;
  while (chunk + 1 < sums.size() && left >= sums[chunk]) left -= sums[chunk++];
  const auto end = std::min(logits.size(), (chunk + 1) * kSumChunk);
  auto chosen = logits.size();
  for (auto i = chunk * kSumChunk; i < end; ++i) {
    const auto mass = softmax.mass(logits[i]);
    if (mass == 0) continue;
    chosen = i;
    left -= mass;
    if (left < 0) break;
  }
  // Where rounding leaves nothing of the last chunk
  if (chosen == logits.size()) chosen = index_of(logits, softmax.largest);
  return {chosen, softmax.logprob(logits[chosen])};
}

bool is_better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/// Tokens that top-k leaves: as in HF, what equals the k-th largest stays.
std::vector<Candidate> top_k_candidates(std::span<const float> logits, std::int64_t top_k) {
  auto threshold = kNever;
  if (top_k > 0 && static_cast<std::size_t>(top_k) < logits.size()) {
    std::vector<float> sorted(logits.begin(), logits.end());
    const auto kth = sorted.begin() + (top_k - 1);
    std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
    threshold = *kth;
  }
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= threshold && logits[i] != kNever)
      candidates.push_back({logits[i], static_cast<std::int64_t>(i)});
  return candidates;
}

/// One of the tokens that the filters leave.
Choice draw_filtered(std::span<const float> logits, const SamplingConfig& config, double u) {
  auto heap = top_k_candidates(logits, config.top_k);
  const auto is_worse = [](const auto& a, const auto& b) { return is_better(b, a); };
  std::make_heap(heap.begin(), heap.end(), is_worse);
  const auto largest = heap.front().logit;
  const auto mass = [&](float logit) {
    return std::exp(static_cast<double>(logit - largest) / config.temperature);
  };
  double total = 0;
  if (config.top_p < 1)
    for (const auto& candidate : heap) total += mass(candidate.logit);

  // From the likeliest down: top-p keeps a token while those before it fall short of p; min-p is
  // relative to the likeliest.
  std::vector<std::int64_t> ids;
  std::vector<double> masses;
  double kept = 0;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), is_worse);
    const auto candidate = heap.back();
    heap.pop_back();
    const auto m = mass(candidate.logit);
    const bool is_first = ids.empty();
    if (!is_first && (m < config.min_p || (config.top_p < 1 && kept >= config.top_p * total)))
      break;
    ids.push_back(candidate.id);
    masses.push_back(m);
    kept += m;
  }
  auto left = u * kept;
  std::size_t i = 0;
  while (i + 1 < ids.size() && left >= masses[i]) left -= masses[i++];
  return {static_cast<std::size_t>(ids[i]), std::log(masses[i] / kept)};
}

bool filters(const SamplingConfig& config) {
  return config.top_k > 0 || config.top_p < 1 || config.min_p > 0;
}

Choice choose(std::span<const float> logits, float largest, const Softmax* softmax,
              const SamplingConfig& config, double u) {
  if (config.temperature <= 0) return {index_of(logits, largest), 0.0};
  if (filters(config)) return draw_filtered(logits, config, u);
  if (softmax != nullptr && config.temperature == softmax->temperature)
    return draw(logits, *softmax, u);
  return draw(logits, Softmax(logits, config.temperature), u);
}

}  // namespace

Sampled sample(std::span<float> logits, std::span<const std::int64_t> seen,
               std::span<const std::int64_t> banned, const SamplingConfig& config,
               std::uint64_t sequence, std::uint64_t position) {
  const auto softmax = raw_softmax(logits);
  std::vector<float> raw;
  const bool is_changed = config.repetition_penalty != 1.0 || !banned.empty();
  if (is_changed) raw.assign(logits.begin(), logits.end());
  if (config.repetition_penalty != 1.0) penalise(logits, raw, seen, config.repetition_penalty);
  for (const auto id : banned)
    if (static_cast<std::size_t>(id) < logits.size()) logits[static_cast<std::size_t>(id)] = kNever;
  const auto largest = is_changed ? largest_of(logits) : softmax.largest;
  TORCH_CHECK_VALUE(largest != kNever, "sample: every token is banned");

  const auto u = kernels::to_uniform(
      kernels::random_bits(config.seed, kernels::stream_of("sample", {sequence}), position));
  const auto chosen = choose(logits, largest, is_changed ? nullptr : &softmax, config, u);
  const std::span<const float> unchanged = is_changed ? raw : logits;
  const auto logprob = softmax.logprob(unchanged[chosen.id]);
  auto whole = chosen.logprob;
  if (config.temperature <= 0 || config.temperature == softmax.temperature)
    whole = logprob;
  else if (is_changed || filters(config))
    whole = Softmax(unchanged, config.temperature).logprob(unchanged[chosen.id]);
  return {static_cast<std::int64_t>(chosen.id), static_cast<float>(logprob),
          static_cast<float>(chosen.logprob), static_cast<float>(whole)};
}

}  // namespace tailor::models
