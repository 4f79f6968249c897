#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "models/generation/engine.hpp"
#include "models/layers/kv_cache.hpp"

namespace tailor::models {

/// Tokens in order, the first of which a slot of the cache holds.
struct Sequence {
  std::vector<std::int64_t> ids;
  std::int64_t slot = -1;       // none
  std::int64_t num_cached = 0;  // tokens whose keys and values the slot holds

  std::int64_t num_pending() const { return static_cast<std::int64_t>(ids.size()) - num_cached; }
};

/// The completions of one prompt. Those that have not begun are forks of the prompt's sequence,
/// which is computed once and kept until the last of them has begun.
struct RequestGroup {
  const GenerationRequest* request;
  std::int64_t max_new_tokens;  // of a completion, within the model's positions
  std::size_t first, end;       // its completions
  std::size_t next;             // the first of them that has not begun
  Sequence prompt;
  std::vector<float> next_logits_V;  // of the token behind the prompt, once that is computed
};

/// A completion that has begun: its sequence is prompt and completion.
struct Running {
  std::size_t completion;
  RequestGroup* group;
  Sequence sequence;
  bool ended = false;
};

/// Who has a place and blocks of the cache, in the order of the completions: older ones come first.
/// What is to grow while no block is free has younger ones put back, which lose their blocks and
/// are computed again when there is room: a completion goes on where it was.
class Schedule {
 public:
  /// Throws c10::ValueError for a request that the cache cannot hold even alone.
  Schedule(const ModelShape& shape, const std::vector<GenerationRequest>& requests,
           const GenerationOptions& options);

  std::size_t num_completions() const { return groups_.empty() ? 0 : groups_.back().end; }
  const RequestGroup& group_of(std::size_t completion) const;
  bool has_work() const;

  /// Completions that were put back go on.
  void resume();
  /// Begins the next completion of a prompt that is computed; null where none is or places or
  /// blocks are missing. The pointer holds until the next call.
  Running* begin_completion();
  /// Gives places to prompts.
  void admit();
  void end(Running& running);  // gives its place and its blocks back
  void sweep();                // forgets those that ended

  /// `count` tokens of a sequence to be computed in a step, its blocks being reserved. One of the
  /// two pointers is set.
  struct Piece {
    Running* running;
    RequestGroup* group;
    std::int64_t count;

    Sequence& sequence() const { return running != nullptr ? running->sequence : group->prompt; }
    bool is_last() const { return sequence().num_pending() == count; }
  };
  /// The next step: one token of every completion that is up to date, and up to prefill_tokens of
  /// prompts and of those put back. Shorter prompts are not cut. With prompts_apart one prompt, or
  /// one that was put back, or else the tokens of completions.
  std::vector<Piece> plan();

  KvCache& cache() { return cache_; }

 private:
  std::int64_t num_blocks_missing(const Sequence& sequence, std::int64_t length) const;
  bool has_room(std::int64_t num_blocks) const;
  bool reserve(Sequence& sequence, std::int64_t count);
  void release(Sequence& sequence);
  bool put_back_prompt(std::size_t first);
  void put_back_youngest();
  void plan_running(std::vector<Piece>& pieces, std::int64_t& budget);
  void plan_prompts(std::vector<Piece>& pieces, std::int64_t& budget);

  std::vector<RequestGroup> groups_;
  std::int64_t num_places_, prefill_tokens_;
  bool prompts_apart_;
  std::size_t next_group_ = 0;          // the first that has not been admitted
  std::vector<RequestGroup*> prompts_;  // admitted, with completions that have not begun; in order
  std::deque<Running> running_, waiting_;  // in order; waiting: put back
  KvCache cache_;
};

}  // namespace tailor::models
