#include "models/generation/forward_record.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "models/files/pretrained.hpp"
#include "models/layers/linear_wrapper.hpp"
#include "models/prompt_group.hpp"

using namespace tailor::models;

namespace {

using Tokens = ForwardRecord::Tokens;

/// Counts the rows that its layer multiplies.
class Counting final : public LinearWrapper {
 public:
  Counting(std::shared_ptr<LinearBase> inner, std::int64_t& rows)
      : LinearWrapper(std::move(inner)), rows_(rows) {}
  at::Tensor forward(const at::Tensor& x_TI) override {
    rows_ += x_TI.size(0);
    return inner()->forward(x_TI);
  }

 private:
  std::int64_t& rows_;
};

struct Bench {
  std::unique_ptr<CausalLM> model;
  std::int64_t rows = 0;  // multiplied by all layers together, the head aside
  std::vector<GenerationRequest> requests;
  GenerationOptions options;

  explicit Bench(const std::string& family)
      : model(load_causal_lm(open_pretrained(std::string(TAILOR_GOLDEN) + '/' + family), at::kFloat,
                             kernels::Arithmetic::Float32)) {
    for (const auto& [name, slot] : model->slots())
      if (slot != &model->lm_head())
        slot->rewrap(
            [&](auto layer) { return std::make_shared<Counting>(std::move(layer), rows); });
    requests.resize(2);
    requests[0].prompt_ids = {3, 1, 4, 1, 5, 9, 2, 6};
    requests[1].prompt_ids = {2, 7, 1};
    for (std::size_t i = 0; i < 2; ++i) {
      requests[i].num_completions = 3;
      requests[i].max_new_tokens = 12;
      requests[i].sequence = 10 * i;
    }
    options.sampling.temperature = 1.0;
    options.stop_ids = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};  // so that lengths differ
    options.cache_block_size = 8;
  }

  std::vector<Completion> sample(ForwardRecord& record) {
    ForwardRecord::Recording recording(record, requests);
    options.on_forward = [&](auto rows_at_hand) { recording.next(rows_at_hand); };
    return generate(*model, requests, options);
  }

  /// What an update computes: prompts once, completions without what they ended with.
  Batch batch(const std::vector<Completion>& completions, std::vector<Tokens>& tokens) const {
    std::vector<PromptGroup> groups;
    std::size_t next = 0;
    for (const auto& request : requests) {
      groups.push_back({.prompt = request.prompt_ids, .completions = {}});
      tokens.push_back({static_cast<std::int64_t>(next), true, std::ssize(request.prompt_ids)});
      for (std::int64_t i = 0; i < request.num_completions; ++i, ++next) {
        auto ids = completions[next].ids;
        if (!completions[next].ended()) ids.pop_back();
        tokens.push_back({static_cast<std::int64_t>(next), false, std::ssize(ids)});
        groups.back().completions.push_back(std::move(ids));
      }
    }
    return pack_with_prefixes(groups, 1);
  }
};

/// Relative to the largest.
double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("a forward with the sampler's answers is a forward, without its products", "[models]") {
  const at::NoGradGuard no_grad;
  const std::string family = GENERATE("tiny_llama", "tiny_qwen2", "tiny_qwen3", "tiny_qwen2_moe",
                                      "tiny_deepseek_v2", "tiny_deepseek_v3");
  CAPTURE(family);
  Bench bench(family);
  SECTION("all at once") {}
  SECTION("two at a time") { bench.options.batch_size = 2; }
  SECTION("prompts in pieces") { bench.options.prefill_tokens = 4; }
  SECTION("some are put back and computed again") { bench.options.cache_tokens = 40; }
  ForwardRecord record(*bench.model, std::int64_t{1} << 30);
  const auto completions = bench.sample(record);
  CHECK(record.num_bytes() > 0);
  std::vector<Tokens> tokens;
  const auto batch = bench.batch(completions, tokens);

  bench.rows = 0;
  const auto plain = bench.model->hidden_states(batch);
  CHECK(bench.rows > 0);
  bench.rows = 0;
  {
    const ForwardRecord::Replay replay(record, tokens, batch.num_tokens());
    REQUIRE(replay.knows_all());
    CHECK(distance(bench.model->hidden_states(batch), plain) < 1e-5);
  }
  CHECK(bench.rows == 0);
  CHECK(distance(bench.model->hidden_states(batch), plain) == 0.0);
  CHECK(bench.rows > 0);
}

TEST_CASE("a second call of generate goes on in the record, and clear() forgets all", "[models]") {
  const at::NoGradGuard no_grad;
  Bench bench("tiny_llama");
  ForwardRecord record(*bench.model, std::int64_t{1} << 30);
  bench.sample(record);
  for (auto& request : bench.requests) request.sequence += 100;
  const auto completions = bench.sample(record);
  std::vector<Tokens> tokens;
  const auto batch = bench.batch(completions, tokens);
  for (auto& [number, of_prompt, count] : tokens) number += 6;  // behind those of the first call
  const auto plain = bench.model->hidden_states(batch);
  {
    const ForwardRecord::Replay replay(record, tokens, batch.num_tokens());
    REQUIRE(replay.knows_all());
    CHECK(distance(bench.model->hidden_states(batch), plain) < 1e-5);
  }
  record.clear();
  CHECK(record.num_bytes() == 0);
  CHECK_FALSE(ForwardRecord::Replay(record, tokens, batch.num_tokens()).knows_all());
}

TEST_CASE("the budget keeps the first completions whole, and others not at all", "[models]") {
  const at::NoGradGuard no_grad;
  Bench bench("tiny_llama");
  std::int64_t bytes = 0;  // of a token
  for (const auto& [name, slot] : bench.model->slots())
    if (slot != &bench.model->lm_head()) bytes += 4 * slot->layer().out_features();
  // The first prompt, of 8 tokens, and two completions of at most 12.
  const auto budget = bytes * (8 + 2 * 12) + GENERATE(0, 1);
  bench.options.cache_tokens = GENERATE(0, 40);  // 40: some are put back and computed again
  ForwardRecord record(*bench.model, budget);
  const auto completions = bench.sample(record);
  CHECK(record.num_bytes() <= budget);
  const auto knows = [&](std::int64_t number, bool of_prompt, std::int64_t count) {
    const std::vector<Tokens> tokens{{number, of_prompt, count}};
    return ForwardRecord::Replay(record, tokens, count).knows_all();
  };
  CHECK(knows(0, true, 8));
  CHECK(knows(1, true, 8));
  CHECK_FALSE(knows(0, true, 9));
  for (std::int64_t i = 0; i < 6; ++i) CHECK(knows(i, false, 1) == (i < 2));
  CHECK_FALSE(knows(3, true, 1));
  CHECK_FALSE(knows(-1, true, 1));
  CHECK_FALSE(knows(6, true, 1));
  const std::vector<Tokens> mixed{{0, true, 8}, {2, false, 1}};
  CHECK_FALSE(ForwardRecord::Replay(record, mixed, 9).knows_all());
  CHECK_FALSE(ForwardRecord::Replay(record, {}, 0).knows_all());
  CHECK_FALSE(ForwardRecord::Replay(record, {}, 4).knows_all());
}

TEST_CASE("a record leaves the seats as it found them", "[models]") {
  Bench bench("tiny_llama");
  const auto sitting = [&] {
    std::vector<const LinearBase*> out;
    for (const auto& [name, slot] : bench.model->slots()) out.push_back(&slot->layer());
    return out;
  };
  const auto names = [&] {
    std::vector<std::string> out;
    for (const auto& parameter : bench.model->parameters()) out.push_back(parameter.name);
    return out;
  };
  const auto before = sitting();
  const auto keys = names();
  {
    const ForwardRecord record(*bench.model, 0);
    CHECK(sitting() != before);
    CHECK(names() == keys);
  }
  CHECK(sitting() == before);
}
