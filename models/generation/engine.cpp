#include "models/generation/engine.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "models/batch.hpp"
#include "models/generation/schedule.hpp"

// T tokens of a step, S sequences of it that are computed to their end, V vocabulary
namespace tailor::models {
namespace {

class Engine {
 public:
  Engine(const CausalLM& model, const std::vector<GenerationRequest>& requests,
         const GenerationOptions& options, const OnToken& on_token,
         const OnCompletion& on_completion)
      : model_(model),
        requests_(requests),
        options_(options),
        on_token_(on_token),
        on_completion_(on_completion),
        schedule_(model.shape(), requests, options),
        completions_(schedule_.num_completions()) {
    for (std::size_t i = 0; i < completions_.size(); ++i)
      if (schedule_.group_of(i).max_new_tokens <= 0) finish(i, FinishReason::Length);
  }

  std::vector<Completion> run() {
    while (any_has_work()) {
      schedule_.resume();
      begin_completions();
      schedule_.admit();
      step(schedule_.plan());
    }
    return std::move(completions_);
  }

 private:
  using Pieces = std::vector<Schedule::Piece>;

  bool any_has_work() const {
    const bool has_work = schedule_.has_work();
    return options_.any_rank ? options_.any_rank(has_work) : has_work;
  }

  /// First tokens of completions, from their prompts' logits.
  void begin_completions() {
    for (;;) {
      std::vector<Running*> begun;
      while (auto* running = schedule_.begin_completion()) begun.push_back(running);
      if (begun.empty()) return;
      choose(begun, [](Running& running, std::size_t) {
        return std::vector<float>(running.group->next_logits_V);
      });
      schedule_.sweep();
    }
  }

  /// One forward, and a token for every completion that it brings up to date.
  void step(const Pieces& pieces) {
    if (pieces.empty() && !options_.any_rank) return;
    if (options_.on_forward) options_.on_forward(rows_of(pieces));
    auto logits_SV = last_logits(pieces.empty() ? dummy() : batch_of(pieces), pieces);
    std::vector<Running*> due;
    std::vector<std::span<float>> rows;
    const auto vocab_size = static_cast<std::size_t>(logits_SV.size(1));
    auto* row = logits_SV.mutable_data_ptr<float>();
    for (const auto& piece : pieces) {
      const bool is_last = piece.is_last();
      piece.sequence().num_cached += piece.count;
      if (!is_last) continue;
      if (piece.running != nullptr) {
        due.push_back(piece.running);
        rows.emplace_back(row, vocab_size);
      } else {
        piece.group->next_logits_V.assign(row, row + vocab_size);
      }
      row += vocab_size;
    }
    choose(due, [&](Running&, std::size_t i) { return rows[i]; });
    schedule_.sweep();
  }

  std::vector<ForwardRows> rows_of(const Pieces& pieces) const {
    std::vector<ForwardRows> rows;
    for (const auto& piece : pieces) {
      const auto& group = piece.running != nullptr ? *piece.running->group : *piece.group;
      rows.push_back({.request = static_cast<std::size_t>(group.request - requests_.data()),
                      .completion = piece.running != nullptr
                                        ? std::optional(piece.running->completion)
                                        : std::nullopt,
                      .first = piece.sequence().num_cached,
                      .count = piece.count});
    }
    return rows;
  }

  Batch batch_of(const Pieces& pieces) {
    std::vector<std::int64_t> ids, positions;
    Batch batch;
    batch.document_offsets.push_back(0);
    batch.cache = &schedule_.cache();
    for (const auto& piece : pieces) {
      const auto& sequence = piece.sequence();
      const auto first = sequence.ids.begin() + sequence.num_cached;
      ids.insert(ids.end(), first, first + piece.count);
      positions.resize(ids.size());
      std::iota(positions.end() - piece.count, positions.end(), sequence.num_cached);
      batch.document_offsets.push_back(static_cast<std::int64_t>(ids.size()));
      batch.cache_slots.push_back(sequence.slot);
    }
    batch.ids_T = at::tensor(ids, at::kLong);
    batch.positions_T = at::tensor(positions, at::kLong);
    return batch;
  }

  /// What a rank computes that has nothing to do while others have: no cache knows of it.
  static Batch dummy() { return pack({{0}}); }

  /// Logits behind every piece that is its sequence's last one. In lock-step the head is called at
  /// every step, be it for nothing.
  at::Tensor last_logits(const Batch& batch, const Pieces& pieces) {
    const auto hidden_TD = model_.hidden_states(batch);
    std::vector<std::int64_t> last;
    for (std::size_t i = 0; i < pieces.size(); ++i)
      if (pieces[i].is_last()) last.push_back(batch.document_offsets[i + 1] - 1);
    if (last.empty()) {
      if (!options_.any_rank) return at::empty({0, 0}, at::kFloat);
      last.push_back(0);
    }
    const auto hidden_SD =
        static_cast<std::int64_t>(last.size()) < batch.num_tokens()
            ? at::index_select(hidden_TD, 0, at::tensor(last, at::kLong).to(hidden_TD.device()))
            : hidden_TD;
    auto logits_SV = model_.lm_head()(hidden_SD);
    if (options_.whole_logits) logits_SV = options_.whole_logits(logits_SV);
    TORCH_CHECK_VALUE(logits_SV.size(1) >= model_.shape().vocab_size, "generate: logits of ",
                      logits_SV.size(1), " tokens, the vocabulary has ", model_.shape().vocab_size,
                      "; a sharded head needs whole_logits");
    return logits_SV.to(at::kCPU, at::kFloat).contiguous();
  }

  /// Chooses the next token of each; `logits(running, i)` are scratch space.
  template <typename Logits>
  void choose(std::span<Running* const> running, const Logits& logits) {
    std::vector<Sampled> sampled(running.size());
    at::parallel_for(0, static_cast<std::int64_t>(running.size()), 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (auto s = begin; s < end; ++s) {
                         const auto i = static_cast<std::size_t>(s);
                         auto&& scratch = logits(*running[i], i);
                         sampled[i] = next_token(*running[i], scratch);
                       }
                     });
    for (std::size_t i = 0; i < running.size(); ++i) take(*running[i], sampled[i]);
  }

  Sampled next_token(const Running& running, std::span<float> logits) const {
    const auto& group = *running.group;
    const auto num_new = completions_[running.completion].ids.size();
    const bool may_end = static_cast<std::int64_t>(num_new) >= group.request->min_new_tokens;
    const std::span<const std::int64_t> banned =
        may_end ? std::span<const std::int64_t>() : options_.stop_ids;
    return sample(logits, running.sequence.ids, banned, options_.sampling,
                  group.request->sequence + (running.completion - group.first), num_new);
  }

  void take(Running& running, const Sampled& token) {
    auto& completion = completions_[running.completion];
    if (std::ranges::find(options_.stop_ids, token.id) != options_.stop_ids.end()) {
      completion.end_token = token;
      return leave(running, FinishReason::Stop);
    }
    completion.ids.push_back(token.id);
    completion.logprobs.push_back(token.logprob);
    completion.sampling_logprobs.push_back(token.sampling_logprob);
    completion.whole_logprobs.push_back(token.whole_logprob);
    running.sequence.ids.push_back(token.id);
    if (on_token_ && !on_token_(running.completion, token))
      return leave(running, FinishReason::Stop);
    if (static_cast<std::int64_t>(completion.ids.size()) >= running.group->max_new_tokens)
      leave(running, FinishReason::Length);
  }

  void leave(Running& running, FinishReason reason) {
    schedule_.end(running);
    finish(running.completion, reason);
  }

  void finish(std::size_t completion, FinishReason reason) {
    completions_[completion].finish_reason = reason;
    if (on_completion_) on_completion_(completion, completions_[completion]);
  }

  const CausalLM& model_;
  const std::vector<GenerationRequest>& requests_;
  const GenerationOptions& options_;
  const OnToken& on_token_;
  const OnCompletion& on_completion_;
  Schedule schedule_;
  std::vector<Completion> completions_;
};

void check(const CausalLM& model, const std::vector<GenerationRequest>& requests) {
  const auto& shape = model.shape();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto& ids = requests[i].prompt_ids;
    TORCH_CHECK_VALUE(!ids.empty(), "prompt ", i, ": has no tokens");
    TORCH_CHECK_VALUE(requests[i].num_completions >= 0, "prompt ", i, ": num_completions is ",
                      requests[i].num_completions);
    TORCH_CHECK_VALUE(static_cast<std::int64_t>(ids.size()) <= shape.max_position_embeddings,
                      "prompt ", i, ": ", ids.size(), " tokens, the model has ",
                      shape.max_position_embeddings, " positions");
    for (const auto id : ids)
      TORCH_CHECK_VALUE(id >= 0 && id < shape.vocab_size, "prompt ", i, ": token id ", id,
                        " is not in the vocabulary of ", shape.vocab_size);
  }
}

}  // namespace

std::vector<Completion> generate(const CausalLM& model,
                                 const std::vector<GenerationRequest>& requests,
                                 const GenerationOptions& options, const OnToken& on_token,
                                 const OnCompletion& on_completion) {
  const at::NoGradGuard no_grad;
  check(model, requests);
  auto used = options;
  used.prompts_apart = options.prompts_apart && model.device().is_cpu();
  return Engine(model, requests, used, on_token, on_completion).run();
}

}  // namespace tailor::models
