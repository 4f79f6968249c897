#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "trainer/checkpoint/checksum.hpp"
#include "trainer/cli/job_summary.hpp"
#include "trainer/cli/job_task.hpp"
#include "trainer/cli/prompts.hpp"
#include "trainer/data/rows.hpp"
#include "trainer/grpo/loop.hpp"
#include "trainer/metrics/log.hpp"

namespace tailor::trainer::cli {
namespace {

using Json = nlohmann::ordered_json;
using configs::ConfigError;

std::string checksum_of(const std::vector<PromptRow>& rows) {
  Checksum sum;
  for (const auto& row : rows) {
    sum.add(row.ids.data(), row.ids.size() * sizeof(std::int64_t));
    sum.add(row.columns_json + "\n");
  }
  return sum.hex();
}

std::int64_t size_of(const PromptRow& row) { return static_cast<std::int64_t>(row.ids.size()); }

std::vector<std::string> columns_of(const PromptRow& row) {
  const auto columns = Json::parse(row.columns_json);
  std::vector<std::string> out;
  for (const auto& [name, value] : columns.items()) out.push_back(name);
  return out;
}

/// Refuses a reward that compares with a column which no row of `key` has: it would score nothing.
void check_column(const RewardConfig& reward, const std::vector<PromptRow>& rows,
                  const std::string& key) {
  if (reward.kind != RewardKind::NumericAnswer && reward.kind != RewardKind::ExactAnswer) return;
  if (rows.empty()) return;
  const auto has_column = [&](const PromptRow& row) {
    return std::ranges::count(columns_of(row), reward.column) > 0;
  };
  if (std::ranges::any_of(rows, has_column)) return;
  std::string found;
  for (const auto& name : columns_of(rows.front()))
    found += (found.empty() ? "" : ", ") + ('"' + name + '"');
  throw ConfigError(reward.place + ": no row of " + key + " has the column \"" + reward.column +
                    "\"; beside its prompt the first has " + (found.empty() ? "none" : found));
}

class GrpoJobTask final : public JobTask {
 public:
  GrpoJobTask(const RunConfig& config, const models::Pretrained& pretrained,
              std::int64_t data_ranks, bool scores)
      : config_(config),
        plan_(batch_plan(config, data_ranks)),
        shape_(models::make_causal_lm(pretrained.config_json, pretrained.config_file)->shape()) {
    PromptMaker maker(pretrained, /*as_chat=*/false, /*system=*/"");
    task_.train = load(config.data.train, maker);
    num_dropped_train_ = num_dropped_;
    task_.eval = load(config.data.eval, maker);
    task_.tokenizer = pretrained.tokenizer;
    task_.stop_ids = maker.stop_ids();
    if (task_.stop_ids.empty())
      throw ConfigError(pretrained.path.string() +
                        ": neither generation_config.json nor the tokenizer names a token that "
                        "ends a completion");
    total_steps_ =
        grpo_total_steps(config, static_cast<std::int64_t>(task_.train.size()), data_ranks);
    for (auto reward : config.rewards) {
      check_column(reward, task_.train, "data.train");
      check_column(reward, task_.eval, "data.eval");
      if (needs_max_length(reward)) reward.max_length = config.grpo.max_completion_length;
      if (scores) task_.rewards.push_back(make_reward(reward));
      task_.reward_configs.push_back(std::move(reward));
    }
    if (num_truncated_ > 0)
      log_warn("data.max_length cuts the beginning off " + counted(num_truncated_, "prompt") +
               ", of a conversation its first turns; data.over_length: drop leaves them out");
  }

  std::int64_t total_steps() const override { return total_steps_; }
  std::string step_text() const override {
    return counted(plan_.num_groups * config_.grpo.num_generations / plan_.updates_in_pass,
                   "completion");
  }

  std::vector<std::string> describe() const override {
    std::vector<std::string> out{"train data: " + prompts_text(task_.train, num_dropped_train_)};
    if (!task_.eval.empty())
      out.push_back("eval data: " + prompts_text(task_.eval, num_dropped_ - num_dropped_train_));
    std::string rewards;
    for (const auto& reward : task_.reward_configs)
      rewards +=
          (rewards.empty() ? "" : ", ") + reward.name + " x " + configs::number_text(reward.weight);
    out.push_back("rewards: " + rewards);
    out.push_back("a batch of rollouts: " + counted(plan_.num_groups, "prompt") + " x " +
                  counted(config_.grpo.num_generations, "completion") + " of at most " +
                  counted(config_.grpo.max_completion_length, "token") + ", " +
                  counted(plan_.num_updates, "step") + " from each" + ahead_text() +
                  "; the run: " + counted(total_steps_, "step"));
    return out;
  }

  std::string sample(std::size_t max_characters) const override {
    const auto& row = task_.train.front();
    return "a prompt:\n" + shortened(task_.tokenizer->decode(row.ids), max_characters) +
           "\nand what the rewards are told beside the completion: " +
           shortened(row.columns_json, max_characters);
  }

  std::string plan_json() const override {
    return Json{{"train_data", {{"rows", task_.train.size()}}},
                {"eval_data", {{"rows", task_.eval.size()}}},
                {"prompts_in_batch", plan_.num_groups},
                {"completions_in_batch", plan_.num_groups * config_.grpo.num_generations},
                {"steps_per_batch", plan_.num_updates},
                {"total_steps", total_steps_}}
        .dump();
  }

  Dataset documents() const override {
    const auto longest = size_of(*std::ranges::max_element(task_.train, {}, size_of));
    Example document;
    document.ids.assign(static_cast<std::size_t>(longest + config_.grpo.max_completion_length), 0);
    document.labels.assign(document.ids.size(), 0);
    Dataset out;
    // As many as a micro-batch may take.
    for (std::int64_t i = 0; i < config_.train.per_device_train_batch_size; ++i) {
      out.num_tokens += static_cast<std::int64_t>(document.ids.size());
      out.examples.push_back(document);
    }
    return out;
  }
  std::int64_t sampled_tokens() const override {
    const auto longest = size_of(*std::ranges::max_element(task_.train, {}, size_of));
    return plan_.num_groups *
           (longest + config_.grpo.num_generations * config_.grpo.max_completion_length);
  }
  std::int64_t reused_bytes(at::Device device) const override {
    return reused_forward_bytes(config_, device);
  }
  std::string train_fingerprint() const override { return checksum_of(task_.train); }
  std::string eval_fingerprint() const override { return checksum_of(task_.eval); }
  TrainResult train(TrainRun run) override { return train_grpo(std::move(run), task_); }

 private:
  std::string ahead_text() const {
    const auto ahead = std::min(config_.grpo.max_staleness, plan_.num_updates);
    return ahead == 0 ? "" : ", sampled " + counted(ahead, "step") + " ahead";
  }

  std::string prompts_text(const std::vector<PromptRow>& rows, std::int64_t dropped) const {
    const auto longest = size_of(*std::ranges::max_element(rows, {}, size_of));
    return counted(static_cast<std::int64_t>(rows.size()), "prompt") + ", the longest of " +
           counted(longest, "token") +
           (dropped > 0 ? ", " + counted(dropped, "longer one") + " left out" : "");
  }

  std::vector<PromptRow> load(const std::vector<DataFile>& files, PromptMaker& maker) {
    std::vector<PromptRow> out;
    for (const auto& file : files)
      for (auto& row : maker.rows_from_file(file.path))
        if (fits(row, file)) out.push_back(std::move(row));
    if (out.empty() && !files.empty())
      throw ConfigError(files.front().place +
                        ": no prompt is left: all are longer than "
                        "data.max_length " +
                        std::to_string(config_.data.max_length));
    return out;
  }

  /// Applies data.max_length, which the prompt of a row must keep, and the model's positions.
  bool fits(PromptRow& row, const DataFile& file) {
    const auto limit = config_.data.max_length;
    if (size_of(row) > limit) {
      if (config_.data.over_length == OverLength::Raise)
        throw ConfigError(file.path.string() + ": a prompt has " + std::to_string(size_of(row)) +
                          " tokens, data.max_length is " + std::to_string(limit));
      if (config_.data.over_length == OverLength::Drop) {
        ++num_dropped_;
        return false;
      }
      ++num_truncated_;
      row.ids.erase(row.ids.begin(), row.ids.end() - limit);  // the question is at the end
    }
    const auto positions = shape_.max_position_embeddings;
    if (size_of(row) + config_.grpo.max_completion_length > positions)
      throw ConfigError(config_.grpo_place + ".max_completion_length: a prompt of " +
                        std::to_string(size_of(row)) + " tokens in " + file.path.string() +
                        " and " + std::to_string(config_.grpo.max_completion_length) +
                        " new ones exceed the model's " + std::to_string(positions) + " positions");
    return true;
  }

  const RunConfig& config_;
  BatchPlan plan_;
  models::ModelShape shape_;
  GrpoTask task_;
  std::int64_t total_steps_ = 0, num_dropped_ = 0, num_dropped_train_ = 0, num_truncated_ = 0;
};

}  // namespace

std::unique_ptr<JobTask> open_grpo_task(const RunConfig& config,
                                        const models::Pretrained& pretrained,
                                        std::int64_t data_ranks, bool scores) {
  return std::make_unique<GrpoJobTask>(config, pretrained, data_ranks, scores);
}

}  // namespace tailor::trainer::cli
