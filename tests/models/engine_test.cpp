#include "models/generation/engine.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "models/files/pretrained.hpp"
#include "models/kernels/matvec.hpp"
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
  /// `num_logits`: fewer where the head holds a part of the vocabulary.
  explicit SumModel(std::int64_t num_logits = kVocab) : num_logits_(num_logits) {}

  const ModelShape& shape() const override { return shape_; }
  const LinearSlot& lm_head() const override { return head_; }
  kernels::Arithmetic arithmetic() const override { return kernels::Arithmetic::Float32; }
  void finish_loading(kernels::Arithmetic) override {}

  at::Tensor hidden_states(const Batch& batch) const override {
    forwards.push_back(batch.num_tokens());
    CHECK_FALSE(at::GradMode::is_enabled());
    auto hidden = at::zeros({batch.num_tokens(), num_logits_});
    const auto* ids = batch.ids_T.const_data_ptr<std::int64_t>();
    const auto* positions = batch.positions_T.const_data_ptr<std::int64_t>();
    if (batch.cache == nullptr) return hidden;
    const auto keys_BKPH = batch.cache->layer(0, 1, 1, at::kFloat).keys_BKPH;
    for (std::size_t d = 0; d + 1 < batch.document_offsets.size(); ++d) {
      const auto slot = batch.cache->blocks(batch.cache_slots[d]);
      const auto block_size = batch.cache->block_size();
      const auto cached = [&](std::int64_t position) {
        return keys_BKPH[slot[static_cast<std::size_t>(position / block_size)]][0]
                        [position % block_size][0];
      };
      for (auto t = batch.document_offsets[d]; t < batch.document_offsets[d + 1]; ++t) {
        cached(positions[t]) = static_cast<float>(ids[t]);
        double sum = 0;
        for (std::int64_t p = 0; p <= positions[t]; ++p) sum += cached(p).item<double>();
        hidden[t][static_cast<std::int64_t>(sum) % num_logits_] = 20;
      }
    }
    return hidden;
  }

  at::Device device() const override { return claimed_device; }

  mutable std::vector<std::int64_t> forwards;  // tokens of each
  at::Device claimed_device = at::kCPU;        // it computes in host memory all the same

 private:
  std::int64_t num_logits_;
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
  // both prompts; a step of two, in which the second ends; the third prompt beside the first one's
  // step; the last step of both
  CHECK(model.forwards == Ids{4, 2, 3, 2});
}

TEST_CASE("generate: prompts apart are computed alone in host memory, together on a GPU",
          "[models]") {
  SumModel model;
  auto options = greedy(2);
  options.prompts_apart = true;
  const std::vector<GenerationRequest> requests{request({1, 2, 3}, 3), request({4}, 3)};
  generate(model, requests, options);
  CHECK(model.forwards == Ids{3, 1, 2, 2});
  model.forwards.clear();
  model.claimed_device = at::kCUDA;
  generate(model, requests, options);
  CHECK(model.forwards == Ids{4, 2, 2});
}

TEST_CASE("generate: prompts of one forward stay within prefill_tokens, longer ones come in pieces",
          "[models]") {
  const SumModel model;
  auto options = greedy();
  options.prefill_tokens = 5;
  const auto length = [](std::int64_t n) {
    return request(Ids(static_cast<std::size_t>(n), 1), 1);
  };
  generate(model, {length(3), length(2), length(4), length(9), length(1)}, options);
  CHECK(model.forwards == Ids{5, 4, 5, 5});
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
  CHECK(completion.whole_logprobs == completion.sampling_logprobs);  // nothing is cut
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

TEST_CASE("generate: running completions advance beside the pieces of a long prompt", "[models]") {
  const SumModel model;
  auto options = greedy();
  options.prefill_tokens = 4;
  const Ids long_prompt(10, 1);
  const auto completions = generate(model, {request({2}, 5), request(long_prompt, 2)}, options);
  CHECK(completions[0].ids == expected({2}, 5));
  CHECK(completions[1].ids == expected(long_prompt, 2));
  // the short prompt; the long one is cut 4 + 4 + 2, each piece beside a token of the first
  CHECK(model.forwards == Ids{1, 5, 5, 3, 2});
}

TEST_CASE("generate: the prompt of a group is computed once", "[models]") {
  const SumModel model;
  auto group = request({1, 2, 3, 4, 5}, 3);
  group.num_completions = 4;
  for (const auto& completion : generate(model, {group}, greedy()))
    CHECK(completion.ids == expected(group.prompt_ids, 3));
  CHECK(model.forwards == Ids{5, 4, 4});
  model.forwards.clear();
  generate(model, {group}, greedy(3));  // the fourth begins when places fall free
  CHECK(model.forwards == Ids{5, 3, 3, 1, 1});
}

TEST_CASE("generate: neither the cache's size nor that of its blocks changes tokens", "[models]") {
  const SumModel model;
  GenerationOptions options;
  options.sampling.temperature = 10;
  options.batch_size = 6;
  std::vector<GenerationRequest> requests;
  for (std::int64_t i = 0; i < 7; ++i) {
    requests.push_back(request(Ids(static_cast<std::size_t>(1 + i * 5 % 9), i), 4 + i * 7 % 12));
    requests.back().num_completions = 1 + i % 3;
    requests.back().sequence = static_cast<std::uint64_t>(10 * i);
  }
  const auto tokens = [&] {
    std::vector<Ids> ids;
    std::map<std::size_t, Ids> seen;
    const auto see = [&](std::size_t i, const Sampled& token) {
      seen[i].push_back(token.id);
      return true;
    };
    model.forwards.clear();
    for (const auto& completion : generate(model, requests, options, see)) {
      CHECK(completion.ids == seen[ids.size()]);  // each is told once
      ids.push_back(completion.ids);
    }
    return ids;
  };
  const auto computed = [&] {
    return std::accumulate(model.forwards.begin(), model.forwards.end(), std::int64_t{0});
  };
  const auto ample = tokens();
  const auto least = computed();
  for (const std::int64_t block_size : {1, 3, 4, 8})
    for (const std::int64_t prefill_tokens : {3, 1024})
      for (const std::int64_t cache_tokens : {24, 32, 48, 0}) {
        CAPTURE(block_size, prefill_tokens, cache_tokens);
        options.cache_block_size = block_size;
        options.prefill_tokens = prefill_tokens;
        options.cache_tokens = cache_tokens;
        CHECK(tokens() == ample);
        if (cache_tokens == 0) CHECK(computed() == least);
        if (cache_tokens == 24) CHECK(computed() > least);  // some were put back
      }
}

TEST_CASE("generate: a request that can never fit into the cache is refused", "[models]") {
  const SumModel model;
  auto options = greedy();
  options.cache_block_size = 4;
  options.cache_tokens = 12;
  const Ids prompt(6, 1);
  CHECK(generate(model, {request(prompt, 7)}, options).front().ids == expected(prompt, 7));
  CHECK_THROWS_WITH(generate(model, {request(prompt, 8)}, options),
                    Catch::Contains("prompt 0: 6 tokens and 8 new ones do not fit a cache of 12"));
}

TEST_CASE("generate: in lock-step a rank without work computes along", "[models]") {
  const SumModel model;
  auto options = greedy();
  std::vector<bool> told;
  options.any_rank = [&](bool has_work) {
    told.push_back(has_work);
    return told.size() <= 5;  // other ranks have work for five steps
  };
  const auto completions = generate(model, {request({1, 2}, 2)}, options);
  CHECK(completions.front().ids == expected({1, 2}, 2));
  CHECK(told == std::vector<bool>{true, true, false, false, false, false});
  CHECK(model.forwards == Ids{2, 1, 1, 1, 1});  // the last three of a dummy token
  told.clear();
  model.forwards.clear();
  CHECK(generate(model, {}, options).empty());
  CHECK(model.forwards == Ids{1, 1, 1, 1, 1});
}

TEST_CASE("generate: in lock-step every forward calls the head", "[models]") {
  const SumModel model;
  auto options = greedy();
  options.prefill_tokens = 2;
  std::vector<std::int64_t> rows;
  options.any_rank = [](bool has_work) { return has_work; };
  options.whole_logits = [&](const at::Tensor& logits) {
    rows.push_back(logits.size(0));
    return logits;
  };
  generate(model, {request({1, 2, 3, 4, 5}, 2)}, options);
  CHECK(model.forwards == Ids{2, 2, 1, 1});
  CHECK(rows == Ids{1, 1, 1, 1});
}

TEST_CASE("generate: a part of the vocabulary is made whole by whole_logits", "[models]") {
  const SumModel model(kVocab / 2);
  auto options = greedy();
  CHECK_THROWS_AS(generate(model, {request({1, 2}, 5)}, options), c10::ValueError);
  options.whole_logits = [](const at::Tensor& part) {  // of two ranks
    CHECK(part.size(1) == kVocab / 2);
    return at::cat({part, part - 1}, 1);
  };
  const auto completion = generate(model, {request({1, 2}, 5)}, options).front();
  REQUIRE(completion.ids.size() == 5);
  for (const auto id : completion.ids) CHECK(id < kVocab / 2);
}

TEST_CASE("generate: a real decoder's group equals separate requests", "[models]") {
  const auto pretrained = open_pretrained(std::string(TAILOR_GOLDEN) + "/tiny_llama");
  const auto model = load_causal_lm(pretrained, at::kFloat, kernels::Arithmetic::Float32);
  GenerationOptions options;
  options.cache_block_size = 8;
  std::vector<GenerationRequest> group{request({3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}, 15)}, separate;
  group[0].num_completions = 8;
  group[0].sequence = 40;
  for (std::uint64_t i = 0; i < 8; ++i) {
    separate.push_back(request(group[0].prompt_ids, 15));
    separate.back().sequence = 40 + i;
  }
  const auto expected = generate(*model, separate, options);
  const auto equal = [&] {
    const auto found = generate(*model, group, options);
    for (std::size_t i = 0; i < 8; ++i) {
      CHECK(found[i].ids == expected[i].ids);
      for (std::size_t t = 0; t < found[i].ids.size(); ++t)
        CHECK(found[i].logprobs[t] == Approx(expected[i].logprobs[t]).margin(2e-5));
    }
  };
  equal();
  options.batch_size = 3;
  equal();
  options.prefill_tokens = 4;
  equal();
  options.cache_tokens = 56;  // 7 blocks; a completion has up to 4
  equal();
}

TEST_CASE("generate: with prompts apart completions have the same bits whatever is beside them",
          "[models]") {
  const auto* family = GENERATE("tiny_llama", "tiny_mixtral", "tiny_qwen2_moe", "tiny_qwen3_moe",
                                "tiny_deepseek_v3");
  const bool narrow = GENERATE(false, true);
  CAPTURE(family, narrow);
  if (narrow && !kernels::has_bf16_products()) return;
  const auto pretrained = open_pretrained(std::string(TAILOR_GOLDEN) + '/' + family);
  const auto model =
      load_causal_lm(pretrained, narrow ? at::kBFloat16 : at::kFloat,
                     narrow ? kernels::Arithmetic::BFloat16 : kernels::Arithmetic::Float32);
  std::vector<GenerationRequest> requests;
  for (std::int64_t i = 0; i < 5; ++i) {
    Ids ids;
    for (std::int64_t t = 0; t < 5 + 25 * i; ++t) ids.push_back(3 + (i * 17 + t * 5) % 60);
    requests.push_back(request(ids, 6));
    requests.back().num_completions = 12 + i % 3;  // 64 in all
    requests.back().sequence = static_cast<std::uint64_t>(20 * i);
  }
  GenerationOptions options;
  options.prompts_apart = true;
  options.sampling.temperature = 1.0;
  options.batch_size = 1;
  const auto expected = generate(*model, requests, options);
  for (const std::int64_t batch_size : {std::int64_t{3}, kernels::kMatvecMaxTokens}) {
    options.batch_size = batch_size;
    const auto found = generate(*model, requests, options);
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].ids == expected[i].ids);
      CHECK(found[i].logprobs == expected[i].logprobs);
    }
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
