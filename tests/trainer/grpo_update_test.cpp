// Rollouts, the batches they are cut into, and the update made from them.
#include "trainer/grpo/update.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "models/files/file_error.hpp"
#include "models/files/pretrained.hpp"
#include "models/files/safetensors.hpp"
#include "peft/adapter_file.hpp"
#include "tests/trainer/tiny_policy.hpp"
#include "trainer/parallel/placement.hpp"

using namespace tailor;
using namespace tailor::trainer;

namespace {

/// tiny_llama with an adapter whose B is not zero, and everything an update needs.
struct Bench : TinyPolicy {
  Bench() : TinyPolicy("tiny_llama") {
    at::manual_seed(3);
    for (auto& layer : adapter->layers()) layer->B().detach().normal_(0.0, 0.05);
  }

  std::vector<Rollout> rollouts() const {
    std::vector<Rollout> out;
    const std::vector<std::vector<std::int64_t>> ids = {
        {11, 12, 13}, {14}, {15, 16, 17, 18, 19}, {20, 21}, {22, 23, 24, 25}};
    const std::vector<double> advantages = {1.0, -0.5, 0.25, -1.0, 0.75};
    for (std::size_t i = 0; i < ids.size(); ++i)
      out.push_back({.group = i < 3 ? 0 : 1,
                     .row = i < 3 ? 0 : 1,
                     .ids = ids[i],
                     .advantage = advantages[i]});
    return out;
  }

  struct Result {
    UpdateReport report;
    at::Tensor gradients, values;
  };
  Result update(std::vector<Rollout> rollouts, std::int64_t micro_batch_tokens = 1024,
                models::ForwardRecord* record = nullptr, std::int64_t row_multiple = 1) {
    const auto trainables = ordered_trainables(*adapter);
    FlatParameters::Named named;
    for (const auto& trainable : trainables) named.emplace_back(trainable.name, trainable.value);
    FlatParameters flat(named);
    const auto before = flat.values().clone();
    const GradientSync sync(mesh, trainables);
    AdamW optimizer(flat, {});
    Result out;
    out.report = grpo_update(policy(), flat, optimizer, rollouts, sync,
                             {.step = 1,
                              .learning_rate = 1e-3,
                              .micro_batch_tokens = micro_batch_tokens,
                              .row_multiple = row_multiple},
                             Correction::Off, record);
    out.gradients = flat.gradients().clone();
    out.values = flat.values().clone();
    flat.values().copy_(before);
    return out;
  }
};

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// Log-probabilities go down to -14, where a unit of float32's last place is 1e-6; measured 1.1e-5.
constexpr double kLogprobBound = 2e-5;

/// The job that scripts/golden/make_grpo_goldens.py recorded as `name`.
void configure_like_golden(const std::string& name, Bench& bench) {
  bench.config.beta = 0.1;
  if (name == "step_dapo") {
    bench.config.temperature = 0.7;
    bench.config.epsilon_high = 0.28;
  } else {
    bench.config.loss_type = LossType::Grpo;
    bench.config.importance_sampling_level = RatioLevel::Sequence;
    bench.config.epsilon = 0.02;
    bench.config.use_bias_correction_kl = true;
  }
  bench.model = models::load_causal_lm(models::open_pretrained(TAILOR_GOLDEN "/tiny_llama"),
                                       at::kFloat, models::kernels::Arithmetic::Float32);
  const auto files = peft::read_adapter(TAILOR_GOLDEN "/peft/llama");
  bench.adapter = std::make_unique<peft::LoraAdapter>(*bench.model, files.config, /*seed=*/0);
  peft::load_factors(files, *bench.adapter);
}

/// Its completions, four of a prompt, without old log-probabilities; its prompts become the
/// bench's.
std::vector<Rollout> read_golden_rollouts(const models::SafetensorsFile& golden, Bench& bench) {
  const auto integers = [&](const char* key) {
    const auto x = golden.read(key, at::kLong);
    return std::vector<std::int64_t>(x.const_data_ptr<std::int64_t>(),
                                     x.const_data_ptr<std::int64_t>() + x.numel());
  };
  const auto prompts = integers("prompt_ids"), prompt_offsets = integers("prompt_offsets"),
             completions = integers("completion_ids"), offsets = integers("completion_offsets");
  const auto part = [](const auto& of, std::int64_t begin, std::int64_t end) {
    return std::vector(of.begin() + begin, of.begin() + end);
  };
  bench.rows.clear();
  for (std::size_t p = 0; p + 1 < prompt_offsets.size(); ++p)
    bench.rows.push_back({part(prompts, prompt_offsets[p], prompt_offsets[p + 1]), "", "{}"});
  const auto advantages = golden.read("advantages", at::kDouble);
  const auto reference = golden.read("reference", at::kFloat);
  const auto* first = reference.const_data_ptr<float>();
  std::vector<Rollout> out;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const auto begin = offsets[i], end = offsets[i + 1];
    const auto group = static_cast<std::int64_t>(i / 4);
    out.push_back({.group = group,
                   .row = group,
                   .ids = part(completions, begin, end),
                   .advantage = advantages[static_cast<std::int64_t>(i)].item<double>(),
                   .reference_logprobs = std::vector<float>(first + begin, first + end)});
  }
  return out;
}

}  // namespace

TEST_CASE("a prompt computed once gives what a prompt for every completion gives", "[grpo]") {
  Bench bench;
  bench.config.loss_type = GENERATE(LossType::Dapo, LossType::Grpo, LossType::DrGrpo);
  bench.config.entropy_coef = GENERATE(0.0, 0.1);
  const auto shared = bench.update(bench.rollouts());
  bench.config.share_prompts = false;
  const auto plain = bench.update(bench.rollouts());
  CHECK(shared.report.loss == Approx(plain.report.loss).margin(1e-6));
  CHECK(shared.report.entropy == Approx(plain.report.entropy).epsilon(1e-5));
  CHECK(shared.report.num_tokens < plain.report.num_tokens);
  CHECK(plain.gradients.abs().max().item<double>() > 1e-3);
  CHECK(distance(shared.gradients, plain.gradients) < 1e-5);
}

TEST_CASE("the cut into batches changes nothing but rounding", "[grpo]") {
  Bench bench;
  bench.config.loss_type = GENERATE(LossType::Dapo, LossType::Grpo, LossType::Bnpo, LossType::Sapo);
  const auto whole = bench.update(bench.rollouts());
  for (const std::int64_t tokens : {1, 7, 12}) {
    const auto cut = bench.update(bench.rollouts(), tokens);
    CHECK(cut.report.loss == Approx(whole.report.loss).margin(1e-6));
    CHECK(distance(cut.gradients, whole.gradients) < 1e-5);
  }
}

TEST_CASE("an update that reuses the sampler's forwards is the same", "[grpo]") {
  Bench bench;
  bench.config.loss_type = GENERATE(LossType::Dapo, LossType::Grpo);
  bench.config.entropy_coef = 0.1;
  const std::int64_t micro_batch_tokens = GENERATE(1024, 12);
  models::ForwardRecord record(*bench.model, std::int64_t{1} << 30);
  std::vector<models::GenerationRequest> requests(2);
  for (std::size_t i = 0; i < 2; ++i) {
    requests[i].prompt_ids = bench.rows[i].ids;
    requests[i].num_completions = 3;
    requests[i].max_new_tokens = 6;
    requests[i].sequence = 50 * i;
  }
  models::GenerationOptions options;
  options.sampling.temperature = 1.0;
  std::vector<Rollout> rollouts;
  {
    models::ForwardRecord::Recording recording(record, requests);
    options.on_forward = [&](auto rows) { recording.next(rows); };
    const auto completions = models::generate(*bench.model, requests, options);
    for (std::size_t i = 0; i < completions.size(); ++i)
      rollouts.push_back({.group = static_cast<std::int64_t>(i / 3),
                          .row = static_cast<std::int64_t>(i / 3),
                          .ids = completions[i].ids,
                          .advantage = 0.5 * static_cast<double>(i) - 1.0,
                          .recorded = recording.number(i)});
  }
  const auto reused = bench.update(rollouts, micro_batch_tokens, &record);
  CHECK(reused.report.num_reused == reused.report.num_tokens);
  const auto plain = bench.update(rollouts, micro_batch_tokens);
  CHECK(plain.report.num_reused == 0);
  CHECK(reused.report.num_tokens == plain.report.num_tokens);
  CHECK(reused.report.loss == Approx(plain.report.loss).margin(1e-6));
  CHECK(plain.gradients.abs().max().item<double>() > 1e-3);
  CHECK(distance(reused.gradients, plain.gradients) < 1e-5);

  SECTION("but for a batch with a completion that is in no record") {
    rollouts.back().recorded = -1;
    const auto mixed = bench.update(rollouts, micro_batch_tokens, &record);
    CHECK(mixed.report.num_reused < mixed.report.num_tokens);
    CHECK((mixed.report.num_reused > 0) == (micro_batch_tokens == 12));
    CHECK(distance(mixed.gradients, plain.gradients) < 1e-5);
  }
  SECTION("prompts repeated for every completion") {
    bench.config.share_prompts = false;
    const auto repeated = bench.update(rollouts, micro_batch_tokens, &record);
    CHECK(repeated.report.num_reused == repeated.report.num_tokens);
    CHECK(distance(repeated.gradients, plain.gradients) < 1e-5);
  }
  SECTION("batches that are filled up") {
    const auto filled = bench.update(rollouts, micro_batch_tokens, &record, 16);
    CHECK(filled.report.num_reused == filled.report.num_tokens);
    CHECK(distance(filled.gradients, plain.gradients) < 1e-5);
  }
  SECTION("not once the record is cleared") {
    record.clear();
    CHECK(bench.update(rollouts, micro_batch_tokens, &record).report.num_reused == 0);
  }
}

TEST_CASE("groups without gradient have no backward, and the update is the same", "[grpo]") {
  Bench bench;
  bench.config.loss_type = GENERATE(LossType::Dapo, LossType::Grpo, LossType::Sapo);
  const std::int64_t micro_batch_tokens = GENERATE(1, 1024);
  auto rollouts = bench.rollouts();
  SECTION("of advantages 0") {
    for (auto& rollout : rollouts)
      if (rollout.group == 1) rollout.advantage = 0.0;
  }
  SECTION("cut at the limit") {
    for (auto& rollout : rollouts) rollout.counts = rollout.group == 0;
  }
  SECTION("all of them") {
    for (auto& rollout : rollouts) rollout.advantage = 0.0;
  }
  bench.config.share_prompts = false;  // the row alone tells the prompt
  std::int64_t backwards = 0;
  bench.adapter->layers().front()->B().register_hook([&](const at::Tensor& gradient) {
    ++backwards;
    return gradient;
  });
  const auto found = bench.update(rollouts, micro_batch_tokens);
  const bool learns = std::ranges::any_of(
      rollouts, [](const Rollout& rollout) { return rollout.counts && rollout.advantage != 0.0; });
  CHECK(backwards == (!learns ? 0 : micro_batch_tokens == 1 ? 3 : 1));  // those of group 0
  CHECK((found.gradients.abs().max().item<double>() > 0.0) == learns);
  for (auto& rollout : rollouts) rollout.group = 0;  // one group, which learns
  const auto plain = bench.update(rollouts, micro_batch_tokens);
  CHECK(distance(found.gradients, plain.gradients) < 1e-6);  // another cut
  CHECK(found.report.loss == Approx(plain.report.loss).margin(1e-6));
  CHECK(found.report.entropy == Approx(plain.report.entropy).epsilon(1e-6));
  CHECK(found.report.policy.tokens == plain.report.policy.tokens);
  CHECK(found.report.policy.num_ratios == plain.report.policy.num_ratios);
  CHECK(found.report.num_loss_tokens == plain.report.num_loss_tokens);
}

TEST_CASE("tokens that were rejected are not there for the update", "[grpo]") {
  Bench bench;
  bench.config.beta = 0.1;
  auto rollouts = bench.rollouts();
  for (auto& rollout : rollouts) {
    rollout.reference_logprobs.assign(rollout.ids.size(), -6.0F);
    rollout.kept.assign(rollout.ids.size(), 1.0F);
  }
  const auto all = bench.update(rollouts);
  rollouts.back().kept.assign(rollouts.back().ids.size(), 0.0F);
  rollouts[2].kept = {1.0F, 1.0F, 1.0F, 0.0F, 0.0F};
  const auto some = bench.update(rollouts);
  CHECK(some.report.num_loss_tokens == all.report.num_loss_tokens - 6);
  CHECK(some.report.policy.tokens == all.report.policy.tokens - 6.0);
  // dapo's mean is over tokens: without the last ones and without the last completion it is the
  // same number of them.
  rollouts.pop_back();
  for (auto* list : {&rollouts[2].kept, &rollouts[2].reference_logprobs}) list->resize(3);
  rollouts[2].ids.resize(3);
  const auto shorter = bench.update(rollouts);
  CHECK(some.report.loss == Approx(shorter.report.loss).margin(1e-6));
  CHECK(distance(some.gradients, shorter.gradients) <
        1e-5 * shorter.gradients.abs().max().item<double>());
}

TEST_CASE("at the first update ratios are 1 and the gradient is that of -A log p / N", "[grpo]") {
  Bench bench;
  auto rollouts = bench.rollouts();
  const Policy policy{*bench.model, *bench.adapter, bench.config, bench.rows, bench.mesh, {}};
  measure(policy, rollouts, {.micro_batch_tokens = 9}, &Rollout::old_logprobs);
  const auto result = bench.update(rollouts);
  CHECK(result.report.policy.logprob_difference / result.report.policy.tokens < 1e-5);
  CHECK(result.report.policy.logprob_difference_max < 2e-5);  // float32, two cuts
  CHECK(result.report.policy.num_ratios == 15.0);
  CHECK(result.report.policy.clip_low + result.report.policy.clip_high == 0.0);

  // The same from whole logits and autograd.
  for (const auto& parameter : bench.adapter->parameters()) parameter.mutable_grad() = at::Tensor();
  at::Tensor loss = at::zeros({});
  double tokens = 0.0;
  for (const auto& rollout : rollouts) tokens += static_cast<double>(rollout.size());
  for (const auto& rollout : rollouts) {
    auto ids = bench.rows[static_cast<std::size_t>(rollout.row)].ids;
    const auto prompt = static_cast<std::int64_t>(ids.size());
    ids.insert(ids.end(), rollout.ids.begin(), rollout.ids.end());
    const auto hidden = bench.model->hidden_states(models::pack({ids}));
    const auto logp =
        bench.model->lm_head()(hidden).log_softmax(1).narrow(0, prompt - 1, rollout.size());
    const auto picked = logp.gather(1, at::tensor(rollout.ids, at::kLong).unsqueeze(1));
    loss = loss - picked.sum() * (rollout.advantage / tokens);
  }
  loss.backward();
  std::vector<at::Tensor> flat;
  for (const auto& trainable : ordered_trainables(*bench.adapter))
    flat.push_back(trainable.value.grad().flatten());
  CHECK(distance(at::cat(flat), result.gradients) < 2e-5);
}

TEST_CASE("loss and gradients of a whole step are TRL's, prompts shared or not", "[grpo]") {
  const std::string name = GENERATE("step_dapo", "step_gspo");
  CAPTURE(name);
  const auto golden = models::open_safetensors(TAILOR_GOLDEN "/grpo/" + name + ".safetensors");
  Bench bench;
  configure_like_golden(name, bench);
  bench.config.share_prompts = GENERATE(true, false);
  auto rollouts = read_golden_rollouts(*golden, bench);

  measure({*bench.model, *bench.adapter, bench.config, bench.rows, bench.mesh, {}}, rollouts,
          {.micro_batch_tokens = 1024}, &Rollout::old_logprobs);
  std::vector<at::Tensor> measured;
  for (auto& rollout : rollouts) {
    measured.push_back(at::tensor(rollout.old_logprobs));
    rollout.old_logprobs.clear();  // the update's own, so that ratios are 1 as TRL's are
  }
  CHECK(distance(at::cat(measured), golden->read("old", at::kFloat)) < kLogprobBound);

  const auto found = bench.update(rollouts);
  CHECK(found.report.loss ==
        Approx(golden->read("loss.0", at::kFloat).item<double>()).epsilon(1e-5).margin(1e-6));
  std::int64_t begin = 0;
  for (const auto& trainable : ordered_trainables(*bench.adapter)) {
    CAPTURE(trainable.name);
    const auto expected = golden->read("gradient.0." + trainable.keys.front(), at::kFloat);
    const auto mine = found.gradients.narrow(0, begin, expected.numel()).view(expected.sizes());
    begin += expected.numel();
    CHECK(distance(mine, expected) < 1e-5 * expected.abs().max().item<double>());
  }
}

TEST_CASE("completions left out of the loss take no part in it", "[grpo]") {
  Bench bench;
  auto some = bench.rollouts();
  some[2].counts = some[4].counts = false;
  const auto masked = bench.update(some);
  CHECK(masked.report.num_loss_tokens == 6);
  std::vector<Rollout> rest{some[0], some[1], some[3]};
  const auto without = bench.update(rest);
  CHECK(distance(masked.gradients, without.gradients) < 1e-5);
  for (auto& rollout : some) rollout.counts = false;
  const auto nothing = bench.update(some);
  CHECK(nothing.report.num_loss_tokens == 0);
  CHECK(nothing.report.loss == 0.0);
  CHECK(nothing.gradients.abs().max().item<double>() == 0.0);
}

TEST_CASE("rollouts come back from a checkpoint as they were", "[grpo]") {
  Bench bench;
  RolloutBatch batch{
      .num_groups = 2, .num_updates = 4, .updates_done = 1, .rollouts = bench.rollouts()};
  float next = 0.0F;
  for (auto& rollout : batch.rollouts)
    for (std::size_t t = 0; t < rollout.ids.size(); ++t) {
      rollout.old_logprobs.push_back(next -= 0.25F);
      rollout.sampler_logprobs.push_back(next);
    }
  batch.rollouts[1].counts = false;
  auto saved = gather_rollouts(batch, *bench.mesh.data);
  const auto back =
      scatter_rollouts(saved, /*num_iterations=*/2, /*num_rows=*/2, *bench.mesh.data, "file");
  CHECK(back.num_groups == 2);
  CHECK(back.num_updates == 4);
  CHECK(back.updates_done == 1);
  CHECK((back.rollouts == batch.rollouts));
  for (auto& [name, tensor] : saved)
    if (name == "ids") tensor = tensor.narrow(0, 0, 3);
  CHECK_THROWS_AS(scatter_rollouts(saved, 2, 2, *bench.mesh.data, "file"), models::FileError);
}

TEST_CASE("every group has one owner and one update of a pass, shared out evenly", "[grpo]") {
  const std::int64_t groups = GENERATE(1, 4, 7, 32), in_pass = GENERATE(1, 2, 3);
  const int ranks = GENERATE(1, 2, 3);
  if (groups < in_pass) return;
  const RolloutBatch batch{.num_groups = groups, .num_updates = in_pass * 2, .rollouts = {}};
  std::int64_t covered = 0;
  for (std::int64_t update = 0; update < in_pass; ++update) {
    const auto [begin, end] = groups_of_update(batch, update, /*num_iterations=*/2);
    CHECK(begin == covered);
    covered = end;
    const auto again = groups_of_update(batch, update + in_pass, 2);
    CHECK((again.begin == begin && again.end == end));
    std::vector<std::int64_t> of_rank(static_cast<std::size_t>(ranks), 0);
    for (auto g = begin; g < end; ++g)
      ++of_rank.at(static_cast<std::size_t>(owner_of(g, groups, in_pass, ranks)));
    const auto [least, most] = std::ranges::minmax(of_rank);
    CHECK(most - least <= 1);
  }
  CHECK(covered == groups);
}
