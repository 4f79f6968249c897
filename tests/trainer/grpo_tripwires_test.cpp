// What holds at the first update of a batch, and what is said where it does not.
#include "trainer/grpo/tripwires.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "tests/trainer/tiny_policy.hpp"
#include "trainer/grpo/measure.hpp"
#include "trainer/grpo/sampling.hpp"
#include "trainer/parallel/placement.hpp"
#include "trainer/sft/tripwires.hpp"

using namespace tailor;
using namespace tailor::trainer;
using models::kernels::Arithmetic;

namespace {

constexpr std::int64_t kGenerations = 8;
/// nats, in the mean and at a token: float32 sums in another order, of logits up to 20 where a
/// token is unlikely.
constexpr double kNear = 1e-5, kNearOfAny = 5e-5;

/// A tiny model with an adapter, which samples completions and learns from them.
struct Bench : TinyPolicy {
  std::unique_ptr<FlatParameters> trainable;

  /// `deviation`: of the entries of B; 0: a fresh adapter.
  Bench(const std::string& name, double deviation) : TinyPolicy(name) {
    at::manual_seed(3);
    FlatParameters::Named named;
    for (const auto& [parameter, value] : trainables()) named.emplace_back(parameter, value);
    trainable = std::make_unique<FlatParameters>(named);
    for (const auto& [parameter, view] : trainable->views(trainable->values()))
      if (parameter.find("lora_B") != std::string::npos)
        view.copy_(at::randn(view.sizes()) * deviation);
    config.num_generations = kGenerations;
    config.max_completion_length = 24;
  }

  FlatParameters::Named trainables() const {
    FlatParameters::Named named;
    for (const auto& one : ordered_trainables(*adapter)) named.emplace_back(one.name, one.value);
    return named;
  }

  std::vector<Rollout> sample() const {
    GrpoTask task;
    task.stop_ids = {287};
    auto out =
        draw(policy(), rows, task, {{.group = 0, .row = 0}, {.group = 1, .row = 1}},
             {.temperature = config.temperature, .num_generations = kGenerations, .seed = 11});
    for (std::size_t i = 0; i < out.size(); ++i) out[i].advantage = i % 2 == 0 ? 1.0 : -1.0;
    return out;
  }

  UpdateReport update(std::vector<Rollout>& rollouts, double learning_rate = 1e-2) {
    const GradientSync sync(mesh, ordered_trainables(*adapter));
    AdamW optimizer(*trainable, {});
    return grpo_update(policy(), *trainable, optimizer, rollouts, sync,
                       {.step = 1, .learning_rate = learning_rate, .micro_batch_tokens = 64},
                       Correction::Off);
  }

  /// Why a job would stop behind the first update made from `rollouts`.
  std::string verdict(std::vector<Rollout> rollouts, bool was_base = false) {
    const auto report = update(rollouts, /*learning_rate=*/0.0);
    return why_apart(report, config, mismatch_limit(config, Arithmetic::Float32),
                     {.step = 1, .was_base = was_base})
        .value_or("");
  }
};

double deviation_of(const std::vector<Rollout>& rollouts) {
  double sum = 0.0, squares = 0.0, count = 0.0;
  for (const auto& rollout : rollouts)
    for (const auto x : rollout.sampler_logprobs) sum += x, squares += x * x, count += 1.0;
  return std::sqrt(squares / count - sum * sum / (count * count));
}

UpdateReport report_of(double kl, double approx_kl, double tokens = 2.0) {
  UpdateReport report;
  report.policy.tokens = tokens;
  report.policy.kl = kl * tokens;
  report.policy.approx_kl = approx_kl * tokens;
  return report;
}

}  // namespace

TEST_CASE("the trainer's own forwards give the sampler's log-probabilities", "[grpo]") {
  Bench bench(GENERATE("tiny_llama", "tiny_qwen3_moe"), /*deviation=*/0.2);
  bench.config.temperature = GENERATE(1.0, 0.7);
  SECTION("of the plain distribution") {}
  SECTION("of the whole distribution where a part of it is drawn from") {
    bench.config.top_p = 0.9;
    bench.config.repetition_penalty = 1.1;
    bench.config.min_new_tokens = 4;
  }
  auto rollouts = bench.sample();
  REQUIRE(rollouts.size() == 2 * kGenerations);
  measure_rollouts(bench.policy(), rollouts, /*num_updates=*/2, {.micro_batch_tokens = 100});
  double near = 0.0, tokens = 0.0;
  for (const auto& rollout : rollouts)
    for (std::size_t t = 0; t < rollout.ids.size(); ++t, tokens += 1.0)
      near += std::abs(rollout.old_logprobs.at(t) - rollout.sampler_logprobs.at(t)) < kNear;
  CHECK(near / tokens > 0.95);
  CHECK(deviation_of(rollouts) > 1.0);  // some tokens are much likelier than others
  const auto report = bench.update(rollouts);
  CHECK(report.num_reused == 0);
  CHECK(report.mismatch.tokens > 100.0);
  CHECK(report.mismatch.mean_difference() < kNear);
  CHECK(report.mismatch.difference_max < kNearOfAny);
}

TEST_CASE("the divergence of a fresh adapter from the model without it is 0", "[grpo]") {
  Bench bench(GENERATE("tiny_llama", "tiny_qwen3_moe"), /*deviation=*/0.0);
  bench.config.beta = 0.1;
  CHECK_FALSE(any_lora_B_nonzero(*bench.trainable, bench.trainable->values()));
  auto rollouts = bench.sample();
  measure_rollouts(bench.policy(), rollouts, /*num_updates=*/1, {.micro_batch_tokens = 100});
  for (const auto& rollout : rollouts)
    REQUIRE(rollout.reference_logprobs.size() == rollout.ids.size());
  CHECK(bench.verdict(rollouts, /*was_base=*/true).empty());
  auto report = bench.update(rollouts);
  CHECK(report.policy.kl / report.policy.tokens < 1e-9);

  // Behind that update it is one, and the step that finds it where none may be stops the job.
  CHECK(any_lora_B_nonzero(*bench.trainable, bench.trainable->values()));
  report = bench.update(rollouts);
  CHECK(report.policy.kl / report.policy.tokens > 1e-6);
  rollouts = bench.sample();
  measure_rollouts(bench.policy(), rollouts, 1, {.micro_batch_tokens = 100});
  CHECK(bench.verdict(rollouts).empty());
  CHECK_THAT(bench.verdict(rollouts, /*was_base=*/true),
             Catch::Contains("divergence of the fresh adapter"));
}

TEST_CASE("of several updates the first has ratios of 1, the others have not", "[grpo]") {
  Bench bench(GENERATE("tiny_llama", "tiny_qwen3_moe"), /*deviation=*/0.2);
  auto rollouts = bench.sample();
  // Other batches than those of the update: independent forwards.
  measure_rollouts(bench.policy(), rollouts, /*num_updates=*/2, {.micro_batch_tokens = 100});
  const auto first = bench.update(rollouts), second = bench.update(rollouts);
  CHECK(first.policy.logprob_difference / first.policy.tokens < kNear);
  CHECK(std::abs(first.policy.ratio / first.policy.num_ratios - 1.0) < kNear);
  CHECK(first.policy.logprob_difference_max < kNearOfAny);
  CHECK(first.policy.approx_kl / first.policy.tokens < 1e-9);
  CHECK(second.policy.ratio_max > 1.01);
  CHECK(second.policy.approx_kl / second.policy.tokens > 1e-6);
}

TEST_CASE("a sampler that the adapter does not reach is found out", "[grpo]") {
  // Entries of B as a few steps leave them; the model without the adapter samples.
  Bench bench(GENERATE("tiny_llama", "tiny_qwen3_moe"), /*deviation=*/0.002);
  CHECK(bench.verdict(bench.sample()).empty());
  std::vector<Rollout> rollouts;
  {
    const AdapterOff off(*bench.adapter);
    rollouts = bench.sample();
  }
  CHECK_THAT(bench.verdict(rollouts), Catch::Contains("the adapter does not reach the sampler"));
  bench.config.mismatch_limit = 0.5;
  CHECK(bench.verdict(rollouts).empty());
  bench.config.mismatch_limit = 0.0;
  CHECK(bench.verdict(rollouts).empty());
}

TEST_CASE("the bound on sampler against trainer follows what multiplies", "[grpo]") {
  GrpoConfig config;
  CHECK(mismatch_limit(config, Arithmetic::Float32) == kMismatchLimitFloat32);
  CHECK(mismatch_limit(config, Arithmetic::BFloat16) == kMismatchLimitBFloat16);
  config.mismatch_limit = 0.0;
  CHECK(mismatch_limit(config, Arithmetic::BFloat16) == 0.0);
}

TEST_CASE("sampler and trainer are compared where the same weights gave both", "[grpo]") {
  GrpoConfig config;
  auto report = report_of(0.0, 0.0);
  report.mismatch.tokens = 2.0;
  report.mismatch.difference = GENERATE(0.4, std::numeric_limits<double>::quiet_NaN());
  const auto says = [&](const WatchedUpdate& update) {
    return why_apart(report, config, 0.1, update).has_value();
  };
  CHECK(says({.step = 1}));
  CHECK_FALSE(says({.step = 2, .is_first = false}));
  CHECK(says({.step = 2, .has_moved = true}));  // the old weights' numbers are the trainer's
  config.importance_sampling_correction = Correction::Bypass;
  CHECK(says({.step = 1}));
  CHECK_FALSE(says({.step = 2, .has_moved = true}));

  config.importance_sampling_correction = Correction::Off;
  report.mismatch.difference = 0.0;
  CHECK_FALSE(says({.step = 1}));
  report.policy.logprob_difference = 0.4;
  CHECK(says({.step = 1}));
  CHECK_FALSE(says({.step = 2, .has_moved = true}));  // that is the policy's own way
}

TEST_CASE("a divergence above kl_limit at kl_patience steps in a row stops the job", "[grpo]") {
  GrpoConfig config;
  config.kl_limit = 2.0;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  SECTION("from the reference, at every step") {
    config.beta = 0.1;
    GuardCounts counts;
    const auto says = [&](double kl) {
      return why_far(report_of(kl, 0.0), config, {.step = 7}, counts).value_or("");
    };
    for (const double kl : {3.0, nan, 1.0, 3.0, 3.0}) CHECK(says(kl).empty());
    CHECK_THAT(says(nan), Catch::Contains("step 7: the divergence from the reference is nan"));
  }
  SECTION("from the weights that sampled, where they have moved") {
    GuardCounts counts;
    const auto says = [&](double kl, const WatchedUpdate& update) {
      return why_far(report_of(0.0, kl), config, update, counts).has_value();
    };
    const WatchedUpdate fresh{.step = 1}, second{.step = 2, .is_first = false};
    CHECK_FALSE(says(3.0, second));
    CHECK_FALSE(says(3.0, second));
    for (int i = 0; i < 4; ++i) CHECK_FALSE(says(0.0, fresh));  // it measures nothing
    CHECK(says(3.0, {.step = 4, .has_moved = true}));
    CHECK_FALSE(says(1.0, second));
    CHECK(counts.above_kl_limit == 0);
  }
  SECTION("never") {
    config.kl_limit = 0.0;
    config.kl_patience = 1;
    GuardCounts counts;
    CHECK_FALSE(why_far(report_of(0.0, nan), config, {.step = 2, .is_first = false}, counts));
  }
}

TEST_CASE("batches in a row without any spread stop the job", "[grpo]") {
  GrpoConfig config;
  config.zero_spread_patience = 2;
  GuardCounts counts;
  CHECK_FALSE(why_flat(false, config, 1, counts));
  CHECK_FALSE(why_flat(true, config, 2, counts));
  CHECK_FALSE(why_flat(false, config, 3, counts));
  CHECK_THAT(why_flat(false, config, 4, counts).value_or(""),
             Catch::Contains("step 4: for 2 batches"));
  config.zero_spread_patience = 0;
  CHECK_FALSE(why_flat(false, config, 5, counts));
}
