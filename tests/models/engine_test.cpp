#include "models/generation/engine.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "models/layers/kv_cache.hpp"

using namespace tailor::models;
using Ids = std::vector<std::int64_t>;

namespace {

constexpr std::int64_t kVocab = 50, kPositions = 40;

class PassThrough final : public LinearBase {
 public:
  at::Tensor forward(const at::Tensor& x) override { return x; }
  const kernels::Weight& weight() const override { throw std::logic_error("no weight"); }
  std::int64_t in_features() const override { return 1; }
  std::int64_t out_features() const override { return 1; }
  void finish_loading(kernels::Arithmetic) override {}
};

/// A model whose next token is the sum of all tokens of its sequence, modulo the vocabulary. It
/// remembers tokens nowhere but in the cache, so that a wrong slot or position changes the answer.
class SumModel final : public CausalLM {
 public:
  const ModelShape& shape() const override { return shape_; }
  const LinearSlot& lm_head() const override { return head_; }
  kernels::Arithmetic arithmetic() const override { return kernels::Arithmetic::Float32; }
  void finish_loading(kernels::Arithmetic) override {}

  at::Tensor hidden_states(const Batch& batch) const override {
    forwards.push_back(batch.num_tokens());
    CHECK_FALSE(at::GradMode::is_enabled());
    auto hidden = at::zeros({batch.num_tokens(), kVocab});
    const auto* ids = batch.ids_T.const_data_ptr<std::int64_t>();
    const auto* positions = batch.positions_T.const_data_ptr<std::int64_t>();
    for (std::size_t d = 0; d + 1 < batch.document_offsets.size(); ++d) {
      const auto slot = batch.cache->keys(0, batch.cache_slots[d]);
      for (auto t = batch.document_offsets[d]; t < batch.document_offsets[d + 1]; ++t) {
        slot[positions[t]][0][0] = static_cast<float>(ids[t]);
        const auto sum = slot.narrow(0, 0, positions[t] + 1).select(2, 0).sum().item<double>();
        hidden[t][static_cast<std::int64_t>(sum) % kVocab] = 20;
      }
    }
    return hidden;
  }

  mutable std::vector<std::int64_t> forwards;  // tokens of each

 private:
  ModelShape shape_{"sum", kVocab, kVocab, 1, 1, 1, kPositions};
  LinearSlot head_{std::make_shared<PassThrough>()};
};

Ids expected(Ids ids, std::size_t num_new) {
  Ids fresh;
  for (std::size_t i = 0; i < num_new; ++i) {
    std::int64_t sum = 0;
    for (const auto id : ids) sum += id;
    ids.push_back(sum % kVocab);
    fresh.push_back(sum % kVocab);
  }
  return fresh;
}

GenerationOptions greedy(std::int64_t batch_size = 8) {
  GenerationOptions options;
  options.sampling.temperature = 0;
  options.batch_size = batch_size;
  return options;
}

GenerationRequest request(Ids prompt, std::int64_t max_new_tokens) {
  GenerationRequest out;
  out.prompt_ids = std::move(prompt);
  out.max_new_tokens = max_new_tokens;
  return out;
}

}  // namespace

TEST_CASE("generate: completions come in order and do not depend on the batch size", "[models]") {
  const SumModel model;
  std::vector<GenerationRequest> requests;
  for (std::int64_t i = 0; i < 9; ++i) {
    Ids prompt;
    for (std::int64_t t = 0; t <= i * 7 % 5; ++t) prompt.push_back((i * 13 + t * 3 + 1) % kVocab);
    requests.push_back(request(prompt, 1 + i * 5 % 11));
  }
  for (const std::int64_t batch_size : {1, 2, 4, 20}) {
    const auto completions = generate(model, requests, greedy(batch_size));
    REQUIRE(completions.size() == requests.size());
    for (std::size_t i = 0; i < requests.size(); ++i) {
      CAPTURE(batch_size, i);
      const auto length = static_cast<std::size_t>(requests[i].max_new_tokens);
      CHECK(completions[i].ids == expected(requests[i].prompt_ids, length));
      CHECK(completions[i].logprobs.size() == length);
      CHECK(completions[i].finish_reason == FinishReason::Length);
    }
  }
}

TEST_CASE("generate: running sequences advance in one forward, prompts join as slots fall free",
          "[models]") {
  const SumModel model;
  generate(model, {request({1, 2, 3}, 4), request({4}, 2), request({5, 6}, 2)}, greedy(2));
  // both prompts; a step of two, in which the second ends; the third prompt; its last step with the
  // first, which goes on alone
  CHECK(model.forwards == Ids{4, 2, 2, 2, 1});
}

TEST_CASE("generate: prompts of one forward stay within prefill_tokens, a longer one goes alone",
          "[models]") {
  const SumModel model;
  auto options = greedy();
  options.prefill_tokens = 5;
  const auto length = [](std::int64_t n) {
    return request(Ids(static_cast<std::size_t>(n), 1), 1);
  };
  generate(model, {length(3), length(2), length(4), length(9), length(1)}, options);
  CHECK(model.forwards == Ids{5, 4, 9, 1});
}

TEST_CASE("generate: an end token ends the sequence and is not part of it", "[models]") {
  const SumModel model;
  const Ids prompt{3, 4};
  const auto all = expected(prompt, 6);
  auto options = greedy();
  options.stop_ids = {999, all[3]};
  const auto completion = generate(model, {request(prompt, 10)}, options).front();
  CHECK(completion.ids == Ids(all.begin(), all.begin() + 3));
  CHECK(completion.logprobs.size() == 3);
  CHECK(completion.finish_reason == FinishReason::Stop);
  REQUIRE(completion.ended());
  CHECK(completion.end_token->id == all[3]);
  CHECK(completion.end_token->logprob == Approx(0).margin(1e-6));
}

TEST_CASE("generate: completions carry the log-probabilities of both distributions", "[models]") {
  const SumModel model;
  auto options = greedy();
  options.sampling.temperature = 4;
  const auto completion = generate(model, {request({1, 2}, 12)}, options).front();
  REQUIRE(completion.logprobs.size() == 12);
  REQUIRE(completion.sampling_logprobs.size() == 12);
  CHECK_FALSE(completion.ended());
  const auto logprob = [](bool is_sum, double scale) {  // one logit is 20, the others are 0
    return (is_sum ? 20 / scale : 0) - std::log(std::exp(20 / scale) + kVocab - 1);
  };
  Ids ids{1, 2};
  for (std::size_t i = 0; i < 12; ++i) {
    const bool is_sum = completion.ids[i] == expected(ids, 1).front();
    CHECK(completion.logprobs[i] == Approx(logprob(is_sum, 1)).margin(1e-6));
    CHECK(completion.sampling_logprobs[i] == Approx(logprob(is_sum, 4)).margin(1e-6));
    ids.push_back(completion.ids[i]);
  }
}

TEST_CASE("generate: min_new_tokens keeps end tokens away that long", "[models]") {
  const SumModel model;
  auto options = greedy();
  options.stop_ids = {7};  // the very first choice
  auto one = request({3, 4}, 10);
  CHECK(generate(model, {one}, options).front().ids.empty());
  one.min_new_tokens = 1;
  const auto completion = generate(model, {one}, options).front();
  CHECK(completion.ids.size() >= 1);
  CHECK(completion.ids.front() != 7);
}

TEST_CASE("generate: the callback sees every token and ends a sequence", "[models]") {
  const SumModel model;
  std::map<std::size_t, Ids> seen;
  const auto completions = generate(model, {request({1}, 5), request({2}, 5)}, greedy(),
                                    [&](std::size_t i, const Sampled& token) {
                                      seen[i].push_back(token.id);
                                      return i == 1 || seen[i].size() < 3;
                                    });
  CHECK(completions[0].ids == expected({1}, 3));
  CHECK(completions[0].finish_reason == FinishReason::Stop);
  CHECK(completions[1].ids == expected({2}, 5));
  CHECK(seen[0] == completions[0].ids);
  CHECK(seen[1] == completions[1].ids);
}

TEST_CASE("generate: every completion is reported once, when it is whole", "[models]") {
  const SumModel model;
  std::vector<std::size_t> order;
  std::vector<Ids> reported(3);
  const auto completions = generate(model, {request({1}, 5), request({2}, 2), request({3}, 0)},
                                    greedy(), {}, [&](std::size_t i, const Completion& completion) {
                                      order.push_back(i);
                                      reported[i] = completion.ids;
                                    });
  CHECK(order == std::vector<std::size_t>{2, 1, 0});
  for (std::size_t i = 0; i < 3; ++i) CHECK(reported[i] == completions[i].ids);
}

TEST_CASE("generate: sampling depends on the sequence number, not on the batch", "[models]") {
  const SumModel model;
  GenerationOptions options;
  options.sampling.temperature = 10;  // nearly uniform over the vocabulary
  std::vector<GenerationRequest> requests;
  for (std::uint64_t i = 0; i < 5; ++i) {
    requests.push_back(request({1, 2}, 12));
    requests.back().sequence = i;
  }
  const auto together = generate(model, requests, options);
  for (std::size_t i = 0; i < requests.size(); ++i)
    CHECK(generate(model, {requests[i]}, options).front().ids == together[i].ids);
  CHECK(together[0].ids != together[1].ids);
}

TEST_CASE("generate: the completions of a group are those of as many requests", "[models]") {
  const SumModel model;
  GenerationOptions options;
  options.sampling.temperature = 10;
  std::vector<GenerationRequest> groups, separate;
  for (std::uint64_t i = 0; i < 3; ++i) {
    groups.push_back(request({1, 2, static_cast<std::int64_t>(i)}, 7));
    groups.back().num_completions = static_cast<std::int64_t>(4 * i);
    groups.back().sequence = 100 * i;
    for (std::uint64_t j = 0; j < 4 * i; ++j) {
      separate.push_back(request(groups.back().prompt_ids, 7));
      separate.back().sequence = 100 * i + j;
    }
  }
  for (const std::int64_t batch_size : {1, 3, 8, 64}) {
    options.batch_size = batch_size;
    const auto together = generate(model, groups, options);
    const auto alone = generate(model, separate, options);
    REQUIRE(together.size() == separate.size());
    for (std::size_t i = 0; i < together.size(); ++i) {
      CAPTURE(batch_size, i);
      CHECK(together[i].ids == alone[i].ids);
      CHECK(together[i].logprobs == alone[i].logprobs);
      CHECK(together[i].sampling_logprobs == alone[i].sampling_logprobs);
    }
    CHECK(together[0].ids != together[1].ids);
  }
}

TEST_CASE("generate: a sequence ends with the model's positions", "[models]") {
  const SumModel model;
  const Ids prompt(static_cast<std::size_t>(kPositions - 3), 1);
  const auto completion = generate(model, {request(prompt, 100)}, greedy()).front();
  CHECK(completion.ids == expected(prompt, 3));
  CHECK(completion.finish_reason == FinishReason::Length);
  const Ids full(static_cast<std::size_t>(kPositions), 1);
  CHECK(generate(model, {request(full, 5)}, greedy()).front().ids.empty());
  CHECK(generate(model, {request({1}, 0)}, greedy()).front().ids.empty());
  CHECK(generate(model, {}, greedy()).empty());
}

TEST_CASE("generate: prompts that the model cannot take are refused", "[models]") {
  const SumModel model;
  CHECK_THROWS_AS(generate(model, {request({}, 1)}, greedy()), c10::ValueError);
  CHECK_THROWS_AS(generate(model, {request({kVocab}, 1)}, greedy()), c10::ValueError);
  CHECK_THROWS_AS(generate(model, {request({-1}, 1)}, greedy()), c10::ValueError);
  CHECK_THROWS_AS(generate(model, {request(Ids(kPositions + 1, 1), 1)}, greedy()), c10::ValueError);
}
