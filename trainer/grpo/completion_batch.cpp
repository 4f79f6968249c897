#include "trainer/grpo/completion_batch.hpp"

#include <ATen/ops/tensor.h>

#include <numeric>

namespace tailor::trainer {
namespace {

/// Documents of one batch as they come.
class Builder {
 public:
  explicit Builder(bool shares) : shares_(shares) { out_.offsets.push_back(0); }

  std::int64_t num_tokens() const { return static_cast<std::int64_t>(ids_.size()); }
  bool empty() const { return out_.rollouts.empty(); }
  /// Tokens that `rollout` would add. The last token of a completion predicts nothing.
  std::int64_t cost(const Rollout& rollout, const PromptRow& row) const {
    const auto prompt = static_cast<std::int64_t>(row.ids.size());
    return rollout.size() - 1 + (shares_ && rollout.group == group_ ? 0 : prompt);
  }

  void add(Rollout& rollout, const PromptRow& row) {
    const auto length = static_cast<std::int64_t>(row.ids.size());
    if (!shares_ || rollout.group != group_) {
      group_ = rollout.group;
      prompt_last_ = num_tokens() + length - 1;
      document(row.ids, 0, -1);
      prompt_ = static_cast<std::int64_t>(prefix_of_.size()) - 1;
    }
    const auto first = num_tokens();
    const std::span completion(rollout.ids);
    if (shares_) {
      document(completion.first(completion.size() - 1), length, prompt_);
    } else {
      ids_.insert(ids_.end(), completion.begin(), completion.end() - 1);
      extend_positions();
      batch_offsets_.back() = num_tokens();
    }
    rows_.push_back(prompt_last_);
    for (auto t = first; t < num_tokens(); ++t) rows_.push_back(t);
    targets_.insert(targets_.end(), completion.begin(), completion.end());
    out_.offsets.push_back(static_cast<std::int64_t>(targets_.size()));
    out_.rollouts.push_back(&rollout);
  }

  CompletionBatch finish(std::int64_t row_multiple) {
    out_.num_tokens = num_tokens();
    const auto over = (row_multiple - num_tokens() % row_multiple) % row_multiple;
    if (over > 0) document(std::vector<std::int64_t>(static_cast<std::size_t>(over), 0), 0, -1);
    out_.batch.ids_T = at::tensor(ids_, at::kLong);
    out_.batch.positions_T = at::tensor(positions_, at::kLong);
    out_.batch.document_offsets = std::move(batch_offsets_);
    if (shares_) out_.batch.prefix_of = std::move(prefix_of_);
    out_.rows_S = at::tensor(rows_, at::kLong);
    out_.targets_S = at::tensor(targets_, at::kLong);
    return std::move(out_);
  }

 private:
  void document(std::span<const std::int64_t> ids, std::int64_t first_position,
                std::int64_t prefix) {
    const auto begin = ids_.size();
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    positions_.resize(ids_.size());
    std::iota(positions_.begin() + static_cast<std::ptrdiff_t>(begin), positions_.end(),
              first_position);
    batch_offsets_.push_back(num_tokens());
    prefix_of_.push_back(prefix);
  }
  void extend_positions() {
    const auto begin = positions_.size();
    positions_.resize(ids_.size());
    std::iota(positions_.begin() + static_cast<std::ptrdiff_t>(begin), positions_.end(),
              positions_[begin - 1] + 1);
  }

  bool shares_;
  CompletionBatch out_;
  std::vector<std::int64_t> ids_, positions_, batch_offsets_{0}, prefix_of_, rows_, targets_;
  std::int64_t group_ = -1, prompt_ = -1, prompt_last_ = -1;
};

}  // namespace

std::vector<CompletionBatch> cut_completions(std::span<Rollout> rollouts,
                                             const std::vector<PromptRow>& rows,
                                             std::int64_t num_tokens, std::int64_t row_multiple,
                                             Prompts prompts) {
  const bool shares = prompts == Prompts::Shared;
  std::vector<CompletionBatch> out;
  Builder builder(shares);
  const auto close = [&] {
    if (!builder.empty()) out.push_back(builder.finish(row_multiple));
    builder = Builder(shares);
  };
  for (auto& rollout : rollouts) {
    const auto& row = rows.at(static_cast<std::size_t>(rollout.row));
    if (builder.num_tokens() + builder.cost(rollout, row) > num_tokens) close();
    builder.add(rollout, row);
  }
  close();
  return out;
}

CompletionBatch empty_completions(std::int64_t row_multiple) {
  CompletionBatch out;
  const std::vector<std::int64_t> zeros(static_cast<std::size_t>(row_multiple), 0);
  out.batch = models::pack({zeros});
  out.rows_S = out.targets_S = at::tensor(std::vector<std::int64_t>{}, at::kLong);
  out.offsets = {0};
  return out;
}

}  // namespace tailor::trainer
