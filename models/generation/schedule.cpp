#include "models/generation/schedule.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace tailor::models {
namespace {

std::int64_t size_of(const std::vector<std::int64_t>& ids) {
  return static_cast<std::int64_t>(ids.size());
}

std::vector<RequestGroup> groups_of(const ModelShape& shape,
                                    const std::vector<GenerationRequest>& requests) {
  std::vector<RequestGroup> groups;
  std::size_t first = 0;
  for (const auto& request : requests) {
    const auto end = first + static_cast<std::size_t>(request.num_completions);
    const auto room = shape.max_position_embeddings - size_of(request.prompt_ids);
    const auto max_new_tokens = std::min(request.max_new_tokens, room);
    const auto next = max_new_tokens > 0 ? first : end;  // there is nothing to begin
    groups.push_back({&request, max_new_tokens, first, end, next, {request.prompt_ids}, {}});
    first = end;
  }
  return groups;
}

std::int64_t num_places(const std::vector<RequestGroup>& groups, std::int64_t batch_size) {
  const auto num_completions = groups.empty() ? 0 : static_cast<std::int64_t>(groups.back().end);
  return std::min(std::max<std::int64_t>(batch_size, 1), num_completions);
}

/// Positions of a completion at its longest: the last token is not computed any more.
std::int64_t longest(const RequestGroup& group) {
  return size_of(group.prompt.ids) + std::max<std::int64_t>(group.max_new_tokens - 1, 0);
}

std::int64_t num_blocks(const std::vector<RequestGroup>& groups, const GenerationOptions& options) {
  const auto size = options.cache_block_size;
  if (options.cache_tokens > 0) return std::max<std::int64_t>(options.cache_tokens / size, 1);
  // Enough for all places at the longest sequence's length and a prompt that is kept, and so that
  // nobody waits for a block
  std::int64_t most = 0;
  for (const auto& group : groups) most = std::max(most, longest(group) / size + 3);
  return most * (num_places(groups, options.batch_size) + 1);
}

}  // namespace

Schedule::Schedule(const ModelShape& shape, const std::vector<GenerationRequest>& requests,
                   const GenerationOptions& options)
    : groups_(groups_of(shape, requests)),
      num_places_(num_places(groups_, options.batch_size)),
      prefill_tokens_(std::max<std::int64_t>(options.prefill_tokens, 1)),
      prompts_apart_(options.prompts_apart),
      cache_(num_blocks(groups_, options), options.cache_block_size) {
  for (std::size_t i = 0; i < groups_.size(); ++i)
    TORCH_CHECK_VALUE(cache_.blocks_of(longest(groups_[i])) <= cache_.num_blocks(), "prompt ", i,
                      ": ", groups_[i].prompt.ids.size(), " tokens and ", groups_[i].max_new_tokens,
                      " new ones do not fit a cache of ", cache_.num_blocks() * cache_.block_size(),
                      " tokens");
}

const RequestGroup& Schedule::group_of(std::size_t completion) const {
  return *std::ranges::upper_bound(groups_, completion, {}, &RequestGroup::end);
}

bool Schedule::has_work() const {
  return !running_.empty() || !waiting_.empty() || !prompts_.empty() ||
         std::any_of(groups_.begin() + static_cast<std::ptrdiff_t>(next_group_), groups_.end(),
                     [](const RequestGroup& group) { return group.next < group.end; });
}

std::int64_t Schedule::num_blocks_missing(const Sequence& sequence, std::int64_t length) const {
  const auto held = sequence.slot < 0 ? 0 : cache_.blocks(sequence.slot).size();
  return std::max<std::int64_t>(cache_.blocks_of(length) - static_cast<std::int64_t>(held), 0);
}

/// Whether so many blocks are free beyond what those that hold some need for their next tokens.
bool Schedule::has_room(std::int64_t num_blocks) const {
  for (const auto& running : running_)
    num_blocks +=
        num_blocks_missing(running.sequence, size_of(running.sequence.ids) + cache_.block_size());
  for (const auto* group : prompts_)
    if (group->prompt.slot >= 0)
      num_blocks += num_blocks_missing(group->prompt, size_of(group->prompt.ids));
  return cache_.num_free_blocks() >= num_blocks;
}

void Schedule::resume() {
  while (!waiting_.empty() && static_cast<std::int64_t>(running_.size()) < num_places_) {
    auto& oldest = waiting_.front();
    const auto length = size_of(oldest.sequence.ids) + cache_.block_size();
    if (!running_.empty() && !has_room(cache_.blocks_of(length))) return;
    running_.push_back(std::move(oldest));
    waiting_.pop_front();
  }
}

Running* Schedule::begin_completion() {
  if (!waiting_.empty() || static_cast<std::int64_t>(running_.size()) >= num_places_)
    return nullptr;
  const auto found =
      std::ranges::find_if(prompts_, [](const auto* group) { return group->next < group->end; });
  if (found == prompts_.end() || (*found)->next_logits_V.empty()) return nullptr;
  if (!running_.empty() && !has_room(1)) return nullptr;
  auto& group = **found;
  const auto length = size_of(group.prompt.ids);
  running_.push_back(
      {group.next++, &group, {group.prompt.ids, cache_.fork(group.prompt.slot, length), length}});
  return &running_.back();
}

void Schedule::admit() {
  auto taken = static_cast<std::int64_t>(running_.size() + waiting_.size());
  for (const auto* group : prompts_) taken += static_cast<std::int64_t>(group->end - group->next);
  for (; next_group_ < groups_.size() && taken < num_places_; ++next_group_) {
    auto& group = groups_[next_group_];
    if (group.next == group.end) continue;
    prompts_.push_back(&group);
    taken += static_cast<std::int64_t>(group.end - group.next);
  }
}

void Schedule::end(Running& running) {
  release(running.sequence);
  running.ended = true;
}

void Schedule::sweep() {
  std::erase_if(running_, [](const Running& running) { return running.ended; });
  std::erase_if(prompts_, [&](RequestGroup* group) {
    if (group->next < group->end) return false;
    release(group->prompt);
    group->next_logits_V = {};
    return true;
  });
}

bool Schedule::reserve(Sequence& sequence, std::int64_t count) {
  if (sequence.slot < 0) sequence.slot = cache_.open();
  return cache_.reserve(sequence.slot, sequence.num_cached, sequence.num_cached + count);
}

void Schedule::release(Sequence& sequence) {
  if (sequence.slot >= 0) cache_.close(sequence.slot);
  sequence.slot = -1;
  sequence.num_cached = 0;
}

/// Puts the youngest prompt back of those from prompts_[first] on that hold blocks.
bool Schedule::put_back_prompt(std::size_t first) {
  for (auto i = prompts_.size(); i-- > first;) {
    if (prompts_[i]->prompt.slot < 0) continue;
    release(prompts_[i]->prompt);
    prompts_[i]->next_logits_V = {};
    return true;
  }
  return false;
}

void Schedule::put_back_youngest() {
  release(running_.back().sequence);
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

std::vector<Schedule::Piece> Schedule::plan() {
  std::vector<Piece> pieces;
  auto budget = prefill_tokens_;
  plan_running(pieces, budget);
  plan_prompts(pieces, budget);
  if (!prompts_apart_) return pieces;
  // The others keep the blocks that they have got until their turn.
  const auto prompt = std::ranges::find_if(pieces, [](const Piece& piece) {
    return piece.running == nullptr || piece.sequence().num_pending() > 1;
  });
  return prompt == pieces.end() ? pieces : std::vector{*prompt};
}

void Schedule::plan_running(std::vector<Piece>& pieces, std::int64_t& budget) {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    auto& sequence = running_[i].sequence;
    const bool goes_on = sequence.num_pending() == 1;
    const auto count = std::min(sequence.num_pending(), prefill_tokens_);
    if (!goes_on && count > budget) continue;
    bool is_reserved = reserve(sequence, count);
    while (!is_reserved && i < running_.size()) {
      if (!put_back_prompt(0)) put_back_youngest();
      is_reserved = i < running_.size() && reserve(sequence, count);
    }
    if (!is_reserved) return;  // it was the youngest
    if (!goes_on) budget -= count;
    pieces.push_back({&running_[i], nullptr, count});
  }
}

void Schedule::plan_prompts(std::vector<Piece>& pieces, std::int64_t& budget) {
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    auto& prompt = prompts_[i]->prompt;
    const auto count = std::min(prompt.num_pending(), prefill_tokens_);
    if (count == 0) continue;
    const bool is_first = i == 0 && running_.empty();
    if (count > budget) return;
    if (prompt.slot < 0 && !is_first && !has_room(cache_.blocks_of(size_of(prompt.ids)))) return;
    while (!reserve(prompt, count))
      if (!put_back_prompt(i + 1)) return;
    budget -= count;
    pieces.push_back({nullptr, prompts_[i], count});
  }
}

}  // namespace tailor::models
