#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/generation/engine.hpp"

namespace tailor::models {

/// The answers of a model's linear layers to the tokens of completions, kept while these are
/// sampled. Until the weights change, a forward over the same tokens need not multiply again: with
/// the answers replayed it costs norms, attention, activations and what has no seat of its own,
/// routers and routed experts; and its graph is that of any other forward. The numbers are the
/// sampler's, which differ from a forward's by rounding.
///
/// Kept are whole completions with their prompts, in order, as long as the budget holds them at
/// their full lengths. Weights are in host memory, and all of every linear layer on this rank,
/// which waits for no other (GenerationOptions::any_rank); the output head is left out.
class ForwardRecord {
 public:
  /// Sits in the seats of `model`, which outlives it, until it is destroyed. Seat adapters before.
  ForwardRecord(CausalLM& model, std::int64_t budget_bytes);
  ~ForwardRecord();
  ForwardRecord(const ForwardRecord&) = delete;
  ForwardRecord& operator=(const ForwardRecord&) = delete;

  /// Keeps what the forwards compute while it lives: those of one call of generate().
  class Recording {
   public:
    Recording(ForwardRecord& record, const std::vector<GenerationRequest>& requests);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

    /// For GenerationOptions::on_forward.
    void next(std::span<const ForwardRows> rows);
    /// The number by which a completion of the call is found later.
    std::int64_t number(std::size_t completion) const;

   private:
    ForwardRecord& record_;
    std::size_t first_completion_, first_prompt_;
  };

  /// Tokens of one completion, or, with `of_prompt`, of its prompt: the first `count` of them.
  struct Tokens {
    std::int64_t completion;
    bool of_prompt;
    std::int64_t count;
  };
  /// Replays the answers to these tokens, in this order, to forwards of `num_rows` rows that are
  /// made while it lives; rows behind them, which fill a batch up, get those of the first token.
  /// Nothing is replayed where any token is unknown.
  class Replay {
   public:
    Replay(ForwardRecord& record, std::span<const Tokens> tokens, std::int64_t num_rows);
    ~Replay();
    Replay(const Replay&) = delete;
    Replay& operator=(const Replay&) = delete;

    bool knows_all() const { return knows_all_; }

   private:
    ForwardRecord& record_;
    bool knows_all_;
  };

  /// Forgets all: the weights change.
  void clear();
  std::int64_t num_bytes() const;  // kept now

 private:
  class Seat;
  enum class Mode { Off, Keep, Replay };

  /// Where the answers to one token are: a row of a forward that was kept.
  struct Place {
    std::int32_t forward = -1, row = 0;
  };
  using Places = std::vector<Place>;  // of the tokens from the first on
  struct Completion {
    std::size_t prompt;
    std::int64_t prompt_length;
    bool kept;
    Places places;
  };

  std::int64_t bytes_per_token() const;
  void plan(const std::vector<GenerationRequest>& requests);
  void set_places(Places& places, std::int64_t first, std::int64_t count, std::int64_t row);

  std::vector<LinearSlot*> slots_;
  std::vector<std::shared_ptr<Seat>> seats_;
  std::int64_t budget_bytes_, reserved_bytes_ = 0;
  Mode mode_ = Mode::Off;
  std::vector<Places> prompts_;
  std::vector<Completion> completions_;
  std::int32_t num_forwards_ = 0;   // kept
  std::int64_t rows_at_hand_ = 0;   // of the forward that is to come
  std::vector<std::int64_t> kept_;  // its rows that are kept
  Places replayed_;
};

}  // namespace tailor::models
