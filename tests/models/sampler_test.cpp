#include "models/generation/sampler.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "models/generation/softmax_sums.hpp"

using namespace tailor::models;

namespace {

struct Golden {
  SamplingConfig config;
  std::vector<std::int64_t> seen;
  std::vector<float> logits, probabilities;
};

template <typename T>
std::vector<T> numbers(const std::string& line) {
  std::istringstream in(line);
  return {std::istream_iterator<T>(in), {}};
}

std::vector<Golden> golden_cases() {
  std::ifstream in(TAILOR_GOLDEN "/sampling.txt");
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);)
    if (!line.starts_with('#')) lines.push_back(line);
  std::vector<Golden> cases;
  for (std::size_t i = 0; i + 3 < lines.size(); i += 4) {
    const auto v = numbers<double>(lines[i]);
    SamplingConfig config;
    config.temperature = v[0];
    config.top_k = static_cast<std::int64_t>(v[1]);
    config.top_p = v[2];
    config.min_p = v[3];
    config.repetition_penalty = v[4];
    cases.push_back({config, numbers<std::int64_t>(lines[i + 1]), numbers<float>(lines[i + 2]),
                     numbers<float>(lines[i + 3])});
  }
  return cases;
}

std::vector<float> random_logits(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(n);
  for (auto& x : logits) x = normal(generator);
  return logits;
}

Sampled one(std::vector<float> logits, const SamplingConfig& config, std::uint64_t sequence = 0,
            std::uint64_t position = 0, std::vector<std::int64_t> banned = {}) {
  return sample(logits, {}, banned, config, sequence, position);
}

}  // namespace

TEST_CASE("sample: frequencies are those of transformers' logits processors", "[models]") {
  const auto cases = golden_cases();
  REQUIRE(cases.size() == 10);
  for (const auto& c : cases) {
    CAPTURE(c.config.temperature, c.config.top_k, c.config.top_p, c.config.min_p,
            c.config.repetition_penalty);
    constexpr int kDraws = 20000;
    std::vector<int> counts(c.logits.size());
    for (int i = 0; i < kDraws; ++i) {
      auto logits = c.logits;
      const auto token = sample(logits, c.seen, {}, c.config, 3, static_cast<std::uint64_t>(i));
      ++counts[static_cast<std::size_t>(token.id)];
    }
    double chi_squared = 0;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const auto expected = kDraws * static_cast<double>(c.probabilities[i]);
      if (c.probabilities[i] == 0) {
        CHECK(counts[i] == 0);
        continue;
      }
      ++kept;
      chi_squared += std::pow(counts[i] - expected, 2) / std::max(expected, 1.0);
    }
    // 5 standard deviations above the mean of the distribution with kept - 1 degrees of freedom
    const auto freedom = static_cast<double>(kept - 1);
    CHECK(chi_squared <= freedom + 5 * std::sqrt(2 * freedom));
  }
}

TEST_CASE("sample: temperature 0 takes the largest, the first of equals", "[models]") {
  SamplingConfig greedy;
  greedy.temperature = 0;
  CHECK(one({0.0F, 3.0F, -1.0F, 3.0F}, greedy).id == 1);
  auto logits = random_logits(49152, 1);
  logits[40000] = 99.0F;
  CHECK(one(logits, greedy).id == 40000);
}

TEST_CASE("sample: logprob is that of the raw logits, whatever the settings", "[models]") {
  const auto logits = random_logits(5000, 2);
  double total = 0;
  for (const auto x : logits) total += std::exp(static_cast<double>(x));
  SamplingConfig config;
  config.temperature = 0.5;
  config.top_k = 7;
  config.repetition_penalty = 2.0;
  const std::vector<std::int64_t> seen{1, 2, 3}, banned{9};
  for (std::uint64_t position = 0; position < 20; ++position) {
    auto scratch = logits;
    const auto token = sample(scratch, seen, banned, config, 0, position);
    const auto expected = logits[static_cast<std::size_t>(token.id)] - std::log(total);
    CHECK(token.logprob == Approx(expected).margin(2e-6));
  }
}

TEST_CASE("sample: whole_logprob is that of all tokens at the temperature", "[models]") {
  const auto logits = random_logits(300, 6);
  const std::vector<std::int64_t> seen{1, 2, 3};
  for (const double temperature : {0.5, 1.0, 1.7}) {
    double total = 0;
    for (const auto x : logits) total += std::exp(x / temperature);
    std::vector<SamplingConfig> configs(5);
    configs[1].top_k = 7;
    configs[2].top_p = 0.8;
    configs[3].min_p = 0.1;
    configs[4].repetition_penalty = 2.0;
    for (auto& config : configs) {
      config.temperature = temperature;
      for (const auto& banned : {std::vector<std::int64_t>{}, std::vector<std::int64_t>{9, 10}})
        for (std::uint64_t position = 0; position < 20; ++position) {
          auto scratch = logits;
          const auto token = sample(scratch, seen, banned, config, 0, position);
          const auto logit = logits[static_cast<std::size_t>(token.id)];
          const auto expected = logit / temperature - std::log(total);
          CHECK(token.whole_logprob == Approx(expected).margin(3e-6));
        }
    }
  }
}

TEST_CASE("sample: sampling_logprob is that of the distribution drawn from", "[models]") {
  for (const auto& c : golden_cases()) {
    CAPTURE(c.config.temperature, c.config.top_k, c.config.top_p, c.config.min_p,
            c.config.repetition_penalty);
    for (std::uint64_t position = 0; position < 50; ++position) {
      auto logits = c.logits;
      const auto token = sample(logits, c.seen, {}, c.config, 0, position);
      const auto expected = c.probabilities[static_cast<std::size_t>(token.id)];
      CHECK(token.sampling_logprob == Approx(std::log(expected)).margin(1e-5));
    }
  }
  const auto logits = random_logits(50000, 7);
  for (const double temperature : {0.3, 1.0, 1.7}) {
    SamplingConfig config;
    config.temperature = temperature;
    double total = 0;
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (i != 9) total += std::exp(logits[i] / temperature);
    for (std::uint64_t position = 0; position < 20; ++position) {
      const auto token = one(logits, config, 0, position, {9});
      const auto expected =
          logits[static_cast<std::size_t>(token.id)] / temperature - std::log(total);
      CHECK(token.sampling_logprob == Approx(expected).margin(3e-6));
    }
  }
  SamplingConfig greedy;
  greedy.temperature = 0;
  CHECK(one(logits, greedy).whole_logprob == one(logits, greedy).logprob);
  CHECK(one(logits, greedy).sampling_logprob == 0);
}

TEST_CASE("sample: the draw is a function of seed, sequence and position", "[models]") {
  const auto logits = random_logits(1000, 3);
  SamplingConfig config;
  config.temperature = 2.0;
  const auto ids = [&](std::uint64_t seed, std::uint64_t sequence) {
    auto with_seed = config;
    with_seed.seed = seed;
    std::vector<std::int64_t> out;
    for (std::uint64_t position = 0; position < 16; ++position)
      out.push_back(one(logits, with_seed, sequence, position).id);
    return out;
  };
  const auto first = ids(1, 0);
  CHECK(ids(1, 0) == first);
  CHECK(ids(2, 0) != first);
  CHECK(ids(1, 1) != first);
  CHECK(std::set(first.begin(), first.end()).size() > 4);
}

TEST_CASE("sample: filters that keep everything choose as no filter does", "[models]") {
  const auto logits = random_logits(300, 4);
  SamplingConfig open, wide;
  wide.top_k = 300;
  std::vector<int> a(300), b(300);
  for (std::uint64_t i = 0; i < 30000; ++i) {
    ++a[static_cast<std::size_t>(one(logits, open, 0, i).id)];
    ++b[static_cast<std::size_t>(one(logits, wide, 1, i).id)];
  }
  for (std::size_t i = 0; i < 300; ++i)
    CHECK(std::abs(a[i] - b[i]) <= 6 * std::sqrt(a[i] + b[i] + 1.0));
}

TEST_CASE("sample: a banned token is never chosen", "[models]") {
  SamplingConfig config;
  const std::vector<float> logits{10.0F, 0.0F, 0.0F};
  for (const double temperature : {0.0, 1.0})
    for (const std::int64_t top_k : {0, 2}) {
      config.temperature = temperature;
      config.top_k = top_k;
      for (std::uint64_t i = 0; i < 50; ++i) CHECK(one(logits, config, 0, i, {0}).id != 0);
    }
  CHECK_THROWS_AS(one(logits, config, 0, 0, {0, 1, 2}), c10::ValueError);
}

TEST_CASE("sample: logits that are not finite are refused", "[models]") {
  const SamplingConfig config;
  auto logits = random_logits(100, 5);
  logits[70] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(one(logits, config), NonFiniteLogits);
  logits[70] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(one(logits, config), NonFiniteLogits);
  CHECK_THROWS_AS(one({}, config), c10::ValueError);
}

TEST_CASE("softmax_sums: near the exact sums for every instruction set", "[models]") {
  for (const auto isa : kernels::available_isas())
    for (const std::size_t size : {1U, 63U, 64U, 65U, 1000U}) {
      auto x = random_logits(size, 6);
      x[0] = 12;
      x[size / 2] = -1e30F;
      const auto largest = *std::max_element(x.begin(), x.end());
      const auto sums = softmax_sums(x, largest, 0.7, isa);
      REQUIRE(sums.size() == (size + 63) / 64);
      for (std::size_t c = 0; c < sums.size(); ++c) {
        double expected = 0;
        for (auto i = c * 64; i < std::min(size, c * 64 + 64); ++i)
          expected += std::exp((static_cast<double>(x[i]) - largest) / 0.7);
        CHECK(sums[c] == Approx(expected).epsilon(3e-6).margin(1e-30));
      }
    }
}

TEST_CASE("largest_of: the largest wherever it stands, for every instruction set", "[models]") {
  for (const auto isa : kernels::available_isas()) {
    CHECK(largest_of({}, isa) == -std::numeric_limits<float>::infinity());
    for (const std::size_t size : {1U, 4U, 15U, 16U, 17U, 100U})
      for (std::size_t i = 0; i < size; ++i) {
        std::vector<float> x(size, -5.0F);
        x[i] = -1.0F;
        CHECK(largest_of(x, isa) == -1.0F);
      }
  }
}
