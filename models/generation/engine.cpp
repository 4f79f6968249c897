#include "models/generation/engine.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "models/batch.hpp"
#include "models/layers/kv_cache.hpp"

// T tokens, S sequences of a step, V vocabulary
namespace tailor::models {
namespace {

/// One completion, waiting or running.
struct Job {
  const GenerationRequest* request;
  std::uint64_t sequence;  // number of its random stream
};

std::vector<Job> jobs_of(const std::vector<GenerationRequest>& requests) {
  std::vector<Job> jobs;
  for (const auto& request : requests)
    for (std::int64_t i = 0; i < request.num_completions; ++i)
      jobs.push_back({&request, request.sequence + static_cast<std::uint64_t>(i)});
  return jobs;
}

/// A sequence that holds a slot.
struct Running {
  std::size_t job;
  std::int64_t slot, limit;       // new tokens at most
  std::int64_t num_cached = 0;    // tokens whose keys and values the slot holds
  std::vector<std::int64_t> ids;  // prompt and completion

  std::span<const std::int64_t> pending() const {
    return std::span(ids).subspan(static_cast<std::size_t>(num_cached));
  }
};

class Engine {
 public:
  Engine(const CausalLM& model, const std::vector<GenerationRequest>& requests,
         const GenerationOptions& options, const OnToken& on_token,
         const OnCompletion& on_completion)
      : model_(model),
        jobs_(jobs_of(requests)),
        options_(options),
        on_token_(on_token),
        on_completion_(on_completion),
        completions_(jobs_.size()),
        cache_(model.shape().num_hidden_layers, model.shape().num_key_value_heads,
               model.shape().head_dim, kernels::activation_dtype(model.arithmetic()), num_slots(),
               capacity()) {
    for (std::int64_t slot = cache_.num_slots(); slot-- > 0;) free_slots_.push_back(slot);
  }

  std::vector<Completion> run() {
    while (next_job_ < jobs_.size() || !running_.empty()) {
      const auto first_new = running_.size();
      admit();
      // New prompts are computed first, so that their sequences join the very next step.
      if (first_new < running_.size())
        step(std::span(running_).subspan(first_new));
      else
        step(running_);
      std::erase_if(running_, [](const Running& r) { return r.slot < 0; });
    }
    return std::move(completions_);
  }

 private:
  std::int64_t num_slots() const {
    return std::min(std::max<std::int64_t>(options_.batch_size, 1),
                    static_cast<std::int64_t>(jobs_.size()));
  }

  std::int64_t limit(const GenerationRequest& request) const {
    const auto room = model_.shape().max_position_embeddings -
                      static_cast<std::int64_t>(request.prompt_ids.size());
    return std::min(request.max_new_tokens, room);
  }

  std::int64_t capacity() const {
    std::int64_t longest = 1;
    for (const auto& job : jobs_)
      longest = std::max(
          longest, static_cast<std::int64_t>(job.request->prompt_ids.size()) + limit(*job.request));
    return longest;
  }

  /// Gives free slots to waiting requests, as many as one forward of prefill_tokens takes.
  void admit() {
    std::int64_t num_tokens = 0;
    while (next_job_ < jobs_.size() && !free_slots_.empty()) {
      const auto& request = *jobs_[next_job_].request;
      const auto length = static_cast<std::int64_t>(request.prompt_ids.size());
      if (num_tokens > 0 && num_tokens + length > options_.prefill_tokens) return;
      const auto index = next_job_++;
      if (limit(request) <= 0) {
        finish(index, FinishReason::Length);
        continue;
      }
      num_tokens += length;
      running_.push_back({index, free_slots_.back(), limit(request), 0, request.prompt_ids});
      free_slots_.pop_back();
    }
  }

  /// One forward over the tokens that the sequences have not computed yet, and a new token each.
  void step(std::span<Running> sequences) {
    if (sequences.empty()) return;
    auto logits_SV = last_logits(sequences);
    const auto vocab_size = static_cast<std::size_t>(logits_SV.size(1));
    auto* logits = logits_SV.mutable_data_ptr<float>();
    std::vector<Sampled> sampled(sequences.size());
    at::parallel_for(0, static_cast<std::int64_t>(sequences.size()), 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (auto s = begin; s < end; ++s) {
                         const auto i = static_cast<std::size_t>(s);
                         sampled[i] = choose(sequences[i], {logits + i * vocab_size, vocab_size});
                       }
                     });
    for (std::size_t i = 0; i < sequences.size(); ++i) take(sequences[i], sampled[i]);
  }

  at::Tensor last_logits(std::span<Running> sequences) {
    std::vector<std::int64_t> ids, positions, last;
    Batch batch;
    batch.document_offsets.push_back(0);
    batch.cache = &cache_;
    for (auto& sequence : sequences) {
      const auto pending = sequence.pending();
      ids.insert(ids.end(), pending.begin(), pending.end());
      positions.resize(ids.size());
      std::iota(positions.end() - static_cast<std::ptrdiff_t>(pending.size()), positions.end(),
                sequence.num_cached);
      batch.document_offsets.push_back(static_cast<std::int64_t>(ids.size()));
      batch.cache_slots.push_back(sequence.slot);
      last.push_back(static_cast<std::int64_t>(ids.size()) - 1);
      sequence.num_cached = static_cast<std::int64_t>(sequence.ids.size());
    }
    batch.ids_T = at::tensor(ids, at::kLong);
    batch.positions_T = at::tensor(positions, at::kLong);
    auto hidden_SD = model_.hidden_states(batch);
    if (last.size() < ids.size())
      hidden_SD = at::index_select(hidden_SD, 0, at::tensor(last, at::kLong));
    return model_.lm_head()(hidden_SD).to(at::kFloat).contiguous();
  }

  Sampled choose(const Running& sequence, std::span<float> logits) const {
    const auto& job = jobs_[sequence.job];
    const auto num_new = completions_[sequence.job].ids.size();
    const bool may_end = static_cast<std::int64_t>(num_new) >= job.request->min_new_tokens;
    const std::span<const std::int64_t> banned =
        may_end ? std::span<const std::int64_t>() : options_.stop_ids;
    return sample(logits, sequence.ids, banned, options_.sampling, job.sequence, num_new);
  }

  void take(Running& sequence, const Sampled& token) {
    auto& completion = completions_[sequence.job];
    const auto& stop_ids = options_.stop_ids;
    if (std::find(stop_ids.begin(), stop_ids.end(), token.id) != stop_ids.end()) {
      completion.end_token = token;
      return leave(sequence, FinishReason::Stop);
    }
    completion.ids.push_back(token.id);
    completion.logprobs.push_back(token.logprob);
    completion.sampling_logprobs.push_back(token.sampling_logprob);
    sequence.ids.push_back(token.id);
    if (on_token_ && !on_token_(sequence.job, token)) return leave(sequence, FinishReason::Stop);
    if (static_cast<std::int64_t>(completion.ids.size()) >= sequence.limit)
      leave(sequence, FinishReason::Length);
  }

  void leave(Running& sequence, FinishReason reason) {
    free_slots_.push_back(sequence.slot);
    sequence.slot = -1;
    finish(sequence.job, reason);
  }

  void finish(std::size_t job, FinishReason reason) {
    completions_[job].finish_reason = reason;
    if (on_completion_) on_completion_(job, completions_[job]);
  }

  const CausalLM& model_;
  std::vector<Job> jobs_;
  const GenerationOptions& options_;
  const OnToken& on_token_;
  const OnCompletion& on_completion_;
  std::vector<Completion> completions_;
  KvCache cache_;
  std::vector<std::int64_t> free_slots_;
  std::vector<Running> running_;
  std::size_t next_job_ = 0;
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
  return Engine(model, requests, options, on_token, on_completion).run();
}

}  // namespace tailor::models
