#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/checkpoint/checksum.hpp"
#include "trainer/cli/job_summary.hpp"
#include "trainer/cli/job_task.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/data/source.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/sft/loop.hpp"

namespace tailor::trainer::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string checksum_of(const Dataset& dataset) {
  Checksum sum;
  for (const auto& example : dataset.examples) {
    sum.add(example.ids.data(), example.ids.size() * sizeof(std::int64_t));
    sum.add(example.labels.data(), example.labels.size() * sizeof(std::int64_t));
  }
  return sum.hex();
}

Json counts_json(const Dataset& dataset) {
  return {{"rows", dataset.examples.size()},      {"tokens", dataset.num_tokens},
          {"supervised", dataset.num_supervised}, {"truncated", dataset.num_truncated},
          {"dropped", dataset.num_dropped},       {"unsupervised", dataset.num_unsupervised}};
}

class SftTask final : public JobTask {
 public:
  SftTask(const RunConfig& config, const models::Pretrained& pretrained, std::int64_t data_ranks)
      : config_(config), tokenizer_(pretrained.tokenizer) {
    auto files = config.data.train;
    files.insert(files.end(), config.data.eval.begin(), config.data.eval.end());
    const auto how = tokenization(pretrained, files, config.data);
    train_ = load_dataset(config.data.train, config.data, how);
    if (!config.data.eval.empty()) eval_ = load_dataset(config.data.eval, config.data, how);
    warn_of_positions(pretrained);
    RowSource source(train_, config.data, config.train.seed);
    rows_in_epoch_ = source.rows_in_epoch();
    rows_in_step_ = config.train.per_device_train_batch_size *
                    config.train.gradient_accumulation_steps * data_ranks;
    total_steps_ = trainer::total_steps(config.train, rows_in_epoch_, static_cast<int>(data_ranks));
    filled_ = static_cast<double>(train_.num_tokens) /
              static_cast<double>(rows_in_epoch_ * config.data.max_length);
  }

  std::int64_t total_steps() const override { return total_steps_; }
  std::string step_text() const override { return counted(rows_in_step_, "row"); }

  std::vector<std::string> describe() const override {
    std::vector<std::string> out{"train data: " + trainer::describe(train_)};
    if (!eval_.examples.empty()) out.push_back("eval data: " + trainer::describe(eval_));
    const auto rows = config_.data.packing ? counted(rows_in_epoch_, "packed row") + " of " +
                                                 counted(config_.data.max_length, "token") + ", " +
                                                 fixed(100.0 * filled_, 1) + " % full"
                                           : counted(rows_in_epoch_, "row");
    out.push_back("an epoch: " + rows + "; the run: " + counted(total_steps_, "step") + " of " +
                  step_text());
    return out;
  }

  std::string sample(std::size_t max_characters) const override {
    return "a sample, what is learnt in [[ ]]:\n" +
           shortened(render_supervision(train_.examples.front(), *tokenizer_), max_characters);
  }

  std::string plan_json() const override {
    return Json{{"train_data", counts_json(train_)}, {"eval_data", counts_json(eval_)},
                {"rows_in_epoch", rows_in_epoch_},   {"rows_in_step", rows_in_step_},
                {"packing_efficiency", filled_},     {"total_steps", total_steps_}}
        .dump();
  }

  Dataset documents() const override { return train_; }
  std::string train_fingerprint() const override { return checksum_of(train_); }
  std::string eval_fingerprint() const override { return checksum_of(eval_); }

  TrainResult train(TrainRun run) override {
    return train_sft(std::move(run), train_, eval_.examples.empty() ? nullptr : &eval_);
  }

 private:
  void warn_of_positions(const models::Pretrained& pretrained) const {
    const auto positions = models::make_causal_lm(pretrained.config_json, pretrained.config_file)
                               ->shape()
                               .max_position_embeddings;
    std::size_t longest = 0;
    for (const auto* dataset : {&train_, &eval_})
      for (const auto& example : dataset->examples) longest = std::max(longest, example.ids.size());
    if (static_cast<std::int64_t>(longest) > positions)
      log_warn("data.max_length: a document of " +
               counted(static_cast<std::int64_t>(longest), "token") + " is longer than the " +
               std::to_string(positions) + " positions that " + pretrained.path.string() +
               " was made for");
  }

  const RunConfig& config_;
  std::shared_ptr<const models::text::Tokenizer> tokenizer_;
  Dataset train_, eval_;  // eval has no examples where the job names no files
  std::int64_t rows_in_epoch_ = 0, total_steps_ = 0, rows_in_step_ = 0;
  double filled_ = 0.0;  // packing: share of max_length that the mean row holds
};

}  // namespace

std::unique_ptr<JobTask> open_sft_task(const RunConfig& config,
                                       const models::Pretrained& pretrained,
                                       std::int64_t data_ranks) {
  return std::make_unique<SftTask>(config, pretrained, data_ranks);
}

}  // namespace tailor::trainer::cli
