#include <catch2/catch.hpp>

#include "job_workspace.hpp"

using namespace tailor::trainer;

namespace {

/// A GRPO job whose section `grpo` (line 6) holds `text`.
std::string with_grpo(const std::string& text) { return kGrpo + "grpo: {" + text + "}\n"; }

}  // namespace

TEST_CASE("a GRPO job has TRL's defaults and is read back as it was written", "[trainer]") {
  const Workspace workspace;
  const auto plain = workspace.read(kGrpo);
  CHECK(plain.task == "grpo");
  CHECK(plain.train.learning_rate == 3e-5);
  CHECK(plain.grpo.num_generations == 8);
  CHECK(plain.grpo.loss_type == LossType::Dapo);
  CHECK(plain.grpo.scale_rewards == ScaleRewards::Group);
  CHECK(plain.grpo.beta == 0.0);
  CHECK(plain.grpo.clip_high() == 0.2);
  REQUIRE(plain.rewards.size() == 1);
  CHECK(plain.rewards[0].kind == RewardKind::NumericAnswer);

  const auto all = workspace.read(
      with_grpo("num_generations: 4, max_completion_length: 32, temperature: 0.7, "
                "steps_per_generation: 4, num_iterations: 2, scale_rewards: rloo, loss_type: gspo, "
                "epsilon: 3.0e-4, epsilon_high: 4.0e-4, delta: 4, dual_clip: 3, beta: 0.04, "
                "kl_estimator: k3+, importance_sampling_correction: token_mask, "
                "importance_sampling_clip_min: 0.5, "
                "importance_sampling_reject: {seq_mean_k1: 1.5, token_k3: 0.3}, "
                "importance_sampling_reject_min: {seq_mean_k1: 0.9}, "
                "mask_truncated_completions: true, dynamic_sampling: true, "
                "top_entropy_quantile: 0.2, share_prompts: false, reuse_forward_mb: 64, stop: "
                "['</answer>', \"\\n\\n\"]"));
  CHECK(all.grpo.stop == std::vector<std::string>{"</answer>", "\n\n"});
  CHECK(all.grpo.reuse_forward_mb == 64);
  CHECK(all.grpo.loss_type == LossType::Grpo);
  CHECK(all.grpo.importance_sampling_level == RatioLevel::Sequence);
  CHECK(all.grpo.kl_estimator == KlEstimator::K3Plus);
  REQUIRE(all.grpo.importance_sampling_reject.size() == 2);
  CHECK(all.grpo.importance_sampling_reject[0].by == RejectBy::SequenceMeanK1);
  CHECK(all.grpo.importance_sampling_reject[0].min == 0.9);
  CHECK_FALSE(all.grpo.importance_sampling_reject[1].min);
  const auto text = to_yaml(all);
  CHECK(to_yaml(workspace.read(text)) == text);
  CHECK_FALSE(plain.grpo.mismatch_limit);
  CHECK(plain.grpo.kl_limit == 10.0);
  const auto watched =
      workspace.read(with_grpo("mismatch_limit: 0.2, kl_limit: 1, kl_patience: 5, kl_in: off, "
                               "dynamic_sampling: true, max_num_gen_batches: 0"));
  CHECK(watched.grpo.mismatch_limit == 0.2);
  CHECK(watched.grpo.asks_reference());
  CHECK_FALSE(plain.grpo.asks_reference());
  CHECK(watched.grpo.draws_more(1'000'000));
  CHECK(plain.grpo.draws_more(9));
  CHECK_FALSE(plain.grpo.draws_more(10));
  CHECK(to_yaml(workspace.read(to_yaml(watched))) == to_yaml(watched));
  const auto ahead = workspace.read(with_grpo("max_staleness: 3"));
  CHECK(ahead.grpo.max_staleness == 3);
  CHECK(workspace.read(to_yaml(ahead)).grpo.max_staleness == 3);
  CHECK(workspace.read(with_grpo("scale_rewards: false")).grpo.scale_rewards == ScaleRewards::None);
  CHECK(workspace.read(with_grpo("vllm_importance_sampling_clip_max: 3"))
            .grpo.importance_sampling_clip_max == 3.0);
}

TEST_CASE("what a GRPO section cannot mean is refused by key", "[trainer]") {
  const Workspace workspace;
  const std::string rejects = "importance_sampling_reject: ";
  const std::pair<std::string, std::vector<std::string>> refusals[] = {
      {"num_generations: 1", {"job.yaml:6:25: grpo.num_generations: expected"}},
      {"loss_type: cispo", {"grpo.loss_type: cispo needs epsilon_high"}},
      {"loss_type: luspo", {"needs importance_sampling_level: sequence"}},
      {"num_generation: 4", {"did you mean \"num_generations\""}},
      {"max_completion_length: 4, min_new_tokens: 5",
       {"expected at most max_completion_length (4)"}},
      {"top_p: 0.9, importance_sampling_correction: token_mask",
       {"expected auto or off where top_p"}},
      {"kl_in: reward", {"without beta above 0"}},
      {"delta: 1.1", {"1 + epsilon_high (1.2)"}},
      {"importance_sampling_clip_min: 3", {"expected at most importance_sampling_clip_max (2)"}},
      {rejects + "{seq_mean_k4: 1}",
       {rejects + "expected keys among token_k1", "did you mean \"seq_mean_k"}},
      {rejects + "{token_k1: 0.9}", {"token_k1: expected at least 1 without a lower bound"}},
      {rejects + "{token_k2: 1}, importance_sampling_reject_min: {token_k2: 0.5}",
       {"token_k2 has no lower bound"}},
      {"importance_sampling_reject_min: {token_k1: 0.5}", {"token_k1 needs its upper bound"}},
      {rejects + "{token_k1: 2}, top_k: 5", {rejects + "leave it out where top_p"}},
      {"stop: ['']", {"grpo.stop[0]: expected a name"}},
      {"max_staleness: 1, dynamic_sampling: true",
       {"dynamic_sampling: expected false with max_staleness above 0"}},
      {"loss_type: minirl", {"minirl needs scale_rewards: none"}},
      {"scale_rewards: rloo, multi_objective_aggregation: normalize_then_sum",
       {"scale_rewards", "has no effect where multi_objective_aggregation"}},
      {"scale_rewards: bnpo_beta, kl_in: reward, kl_estimator: k1, beta: 0.1",
       {"kl_in", "expected loss where scale_rewards is bnpo_beta"}},
      {"kl_in: off, beta: 0.1", {"grpo.beta: expected 0 where kl_in is off"}},
      {"kl_in: off, kl_estimator: k1", {"kl_estimator: has no effect where kl_in is off"}},
      {"kl_patience: 0", {"grpo.kl_patience: expected"}},
      {"max_num_gen_batches: -1", {"grpo.max_num_gen_batches: expected"}},
      {"dynamic_sampling: true, max_num_gen_batches: 0, zero_spread_patience: 0",
       {"grpo.max_num_gen_batches: expected a limit"}},
      {"router_replay: r3", {"expected off"}},
      {"use_vllm: true", {"leave it out"}}};
  for (const auto& [section, words] : refusals) {
    CAPTURE(section);
    const auto errors = workspace.errors(with_grpo(section));
    for (const auto& word : words) CHECK_THAT(errors, Catch::Contains(word));
  }
  CHECK(workspace.read(with_grpo("stop_strings: '##'")).grpo.stop.size() == 1);
}

TEST_CASE("what a GRPO job cannot mean with its other sections is refused by key", "[trainer]") {
  const Workspace workspace;
  CHECK_THAT(workspace.errors("task: grpo\n" + kSmall), Catch::Contains("rewards: missing"));
  CHECK_THAT(workspace.errors(with_grpo("steps_per_generation: 3") +
                              "train: {gradient_accumulation_steps: 2}\n"),
             Catch::Contains("grpo.steps_per_generation: expected a multiple of"));
  CHECK_THAT(workspace.errors(kGrpo + "peft: {lora_dropout: 0.1}\n"),
             Catch::Contains("peft.lora_dropout: expected 0"));
  CHECK_THAT(workspace.errors(kGrpo + "parallel: {pipeline_parallel_size: 2}\n"),
             Catch::Contains("parallel.pipeline_parallel_size: expected 1"));
}
