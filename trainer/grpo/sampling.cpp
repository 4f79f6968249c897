#include "trainer/grpo/sampling.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

#include "models/generation/engine.hpp"
#include "models/text/stop_strings.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/parallel/agree.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

models::GenerationOptions options_of(const Policy& policy, const GrpoTask& task,
                                     const Drawing& drawing) {
  const auto& config = policy.config;
  models::GenerationOptions out;
  out.sampling = {.temperature = drawing.temperature,
                  .top_k = config.top_k,
                  .top_p = config.top_p,
                  .min_p = config.min_p,
                  .repetition_penalty = config.repetition_penalty,
                  .seed = drawing.seed};
  out.stop_ids = task.stop_ids;
  out.batch_size = config.rollout_batch_size;
  out.prompts_apart = true;  // samples shall not depend on what else is sampled
  if (auto* group = lockstep_group(policy.mesh); group != nullptr)
    out.any_rank = [group](bool mine) { return any_rank(mine, *group); };
  if (auto* group = policy.vocabulary.group; group != nullptr)
    out.whole_logits = [group](const at::Tensor& part_SV) {
      return group->all_gather(part_SV.transpose(0, 1).contiguous()).transpose(0, 1).contiguous();
    };
  return out;
}

std::vector<models::GenerationRequest> requests_of(const GrpoConfig& config,
                                                   const std::vector<PromptRow>& rows,
                                                   const std::vector<Planned>& planned,
                                                   const Drawing& drawing) {
  std::vector<models::GenerationRequest> out;
  for (const auto& [group, row] : planned) {
    models::GenerationRequest request;
    request.prompt_ids = rows.at(static_cast<std::size_t>(row)).ids;
    request.num_completions = drawing.num_generations;
    request.max_new_tokens = config.max_completion_length;
    request.min_new_tokens = config.min_new_tokens;
    request.sequence =
        static_cast<std::uint64_t>(drawing.first_sequence + group * drawing.num_generations);
    out.push_back(std::move(request));
  }
  return out;
}

/// Ends completions behind the token that completes a stop string, which is not looked for in the
/// first min_new_tokens.
class StopWatch {
 public:
  StopWatch(const GrpoTask& task, const GrpoConfig& config, std::size_t num_completions)
      : min_new_tokens_(config.min_new_tokens),
        states_(config.stop.empty() ? 0 : num_completions,
                State{.decoder = {task.tokenizer, /*skip_special_tokens=*/true},
                      .stops = models::text::StopStrings(config.stop)}) {}

  models::OnToken on_token() {
    if (states_.empty()) return {};
    return [this](std::size_t completion, const models::Sampled& token) {
      auto& [decoder, stops, num_tokens] = states_[completion];
      const auto text = decoder.push(token.id);
      if (++num_tokens <= min_new_tokens_) return true;
      stops.push(text);
      return !stops.stopped();
    };
  }

 private:
  struct State {
    models::text::StreamDecoder decoder;
    models::text::StopStrings stops;
    std::int64_t num_tokens = 0;
  };

  std::int64_t min_new_tokens_;
  std::vector<State> states_;
};

Rollout rollout_of(const models::Completion& completion, const Planned& planned,
                   const GrpoConfig& config) {
  Rollout out{.group = planned.group, .row = planned.row, .ids = completion.ids};
  // Of the whole distribution, which the trainer's numbers are of, whatever was cut and bent.
  out.sampler_logprobs = completion.whole_logprobs;
  if (completion.end_token) {
    out.ids.push_back(completion.end_token->id);
    out.sampler_logprobs.push_back(completion.end_token->whole_logprob);
  }
  out.stopped = completion.finish_reason == models::FinishReason::Stop;
  out.counts = out.stopped || !config.mask_truncated_completions;
  return out;
}

/// What became of a sample at a reward.
constexpr double kScored = 1.0, kNone = 0.0, kFailed = -1.0, kRowFailed = -2.0;

/// Rows of the table that ranks add up: each holds its own samples, zeros elsewhere. Columns: for
/// every reward what became of the sample, and its score; then length and ending.
at::Tensor own_table(const GrpoTask& task, const std::vector<Rollout>& rollouts,
                     const Scored& scored, std::int64_t num_samples, std::int64_t num_generations) {
  const auto columns = static_cast<std::int64_t>(2 * task.reward_configs.size() + 2);
  auto table = at::zeros({num_samples, columns}, at::kDouble);
  std::vector<double*> rows;
  for (const auto place : places_of(rollouts, num_generations))
    rows.push_back(table.mutable_data_ptr<double>() + place * columns);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i][columns - 2] = static_cast<double>(rollouts[i].size());
    rows[i][columns - 1] = static_cast<double>(ending_of(task, rollouts[i]));
  }
  for (std::size_t f = 0; f < scored.functions.size(); ++f) {
    const auto& result = scored.functions[f];
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i][2 * f] = result.values.at(i) ? kScored : kNone;
      rows[i][2 * f + 1] = result.values.at(i).value_or(0.0);
    }
    for (const auto& fault : result.faults)
      rows.at(fault.index)[2 * f] = fault.of_row ? kRowFailed : kFailed;
  }
  return table;
}

}  // namespace

std::vector<double> reward_weights(const GrpoTask& task) {
  std::vector<double> out;
  for (const auto& reward : task.reward_configs) out.push_back(reward.weight);
  return out;
}

std::vector<std::int64_t> places_of(const std::vector<Rollout>& rollouts,
                                    std::int64_t num_generations) {
  std::vector<std::int64_t> out;
  std::int64_t group = -1, in_group = 0;
  for (const auto& rollout : rollouts) {
    in_group = rollout.group == group ? in_group + 1 : 0;
    group = rollout.group;
    out.push_back(group * num_generations + in_group);
  }
  return out;
}

std::vector<std::string> all_lines(const std::vector<std::string>& own, distributed::Group& data) {
  std::string text;
  for (auto line : own) {
    std::ranges::replace(line, '\n', ' ');
    text += line + '\n';
  }
  auto bytes = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::ranges::copy(text, static_cast<char*>(bytes.mutable_data_ptr()));
  bytes = gathered(bytes, data).contiguous();
  const std::string_view all(static_cast<const char*>(bytes.const_data_ptr()),
                             static_cast<std::size_t>(bytes.numel()));
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin < all.size();) {
    const auto end = all.find('\n', begin);
    out.emplace_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

void warn_of_faults(const GrpoTask& task, const std::vector<PromptRow>& rows,
                    const std::vector<Rollout>& rollouts, const Scored& scored,
                    const std::string& where, std::int64_t num_generations,
                    distributed::Group& data) {
  constexpr std::size_t kShown = 3;
  std::vector<std::string> own;
  for (std::size_t f = 0; f < scored.functions.size(); ++f)
    for (const auto& fault : scored.functions[f].faults)
      own.push_back(task.reward_configs[f].name + " at " + where + ", " +
                    rows.at(static_cast<std::size_t>(rollouts.at(fault.index).row)).place +
                    ", completion " +
                    std::to_string(fault.index % static_cast<std::size_t>(num_generations)) + ": " +
                    fault.reason);
  const auto faults = all_lines(own, data);
  for (std::size_t i = 0; i < std::min(faults.size(), kShown); ++i) log_warn("reward " + faults[i]);
  if (faults.size() > kShown)
    log_warn("... and " + std::to_string(faults.size() - kShown) +
             " more samples without a reward");
}

std::vector<Rollout> draw(const Policy& policy, const std::vector<PromptRow>& rows,
                          const GrpoTask& task, const std::vector<Planned>& planned,
                          const Drawing& drawing) {
  const auto requests = requests_of(policy.config, rows, planned, drawing);
  auto options = options_of(policy, task, drawing);
  std::optional<models::ForwardRecord::Recording> recording;
  if (drawing.record != nullptr) {
    recording.emplace(*drawing.record, requests);
    options.on_forward = [&](auto forward_rows) { recording->next(forward_rows); };
  }
  StopWatch watch(task, policy.config,
                  planned.size() * static_cast<std::size_t>(drawing.num_generations));
  std::vector<models::Completion> completions;
  try {
    completions = models::generate(policy.model, requests, options, watch.on_token());
  } catch (const models::NonFiniteLogits& error) {
    throw NumericError(error.what());
  }
  std::vector<Rollout> out;
  for (std::size_t i = 0; i < completions.size(); ++i) {
    out.push_back(rollout_of(completions[i],
                             planned[i / static_cast<std::size_t>(drawing.num_generations)],
                             policy.config));
    if (recording) out.back().recorded = recording->number(i);
  }
  return out;
}

std::string name_of(Ending ending) {
  switch (ending) {
    case Ending::Length:
      return "length";
    case Ending::EndToken:
      return "eos_token";
    case Ending::StopString:
      return "stop_string";
  }
  return "";
}

Ending ending_of(const GrpoTask& task, const Rollout& rollout) {
  if (!rollout.stopped) return Ending::Length;
  const bool by_token = std::ranges::find(task.stop_ids, rollout.ids.back()) != task.stop_ids.end();
  return by_token ? Ending::EndToken : Ending::StopString;
}

std::vector<Judged> judged_of(const GrpoTask& task, const std::vector<PromptRow>& rows,
                              const std::vector<Rollout>& rollouts) {
  std::vector<Judged> out;
  for (const auto& rollout : rollouts) {
    const auto& row = rows.at(static_cast<std::size_t>(rollout.row));
    auto ids = rollout.ids;
    if (ending_of(task, rollout) == Ending::EndToken) ids.pop_back();
    out.push_back({.prompt_json = row.prompt_json,
                   .completion = task.tokenizer->decode(ids, /*skip_special_tokens=*/true),
                   .columns_json = row.columns_json,
                   .num_tokens = rollout.size()});
  }
  return out;
}

Judgement judge(const GrpoTask& task, const std::vector<Rollout>& rollouts, const Scored& scored,
                std::int64_t num_groups, std::int64_t num_generations,
                const distributed::Mesh& mesh) {
  Judgement out;
  const auto num_samples = num_groups * num_generations;
  // Ranks of tp hold the same samples: the first has asked the rewards, which may have moods.
  auto table = own_table(task, rollouts, scored, num_samples, num_generations);
  mesh.tp->broadcast(table, 0);
  mesh.data->all_reduce(table, distributed::Reduce::Sum);

  const auto columns = table.size(1);
  const auto* row = table.const_data_ptr<double>();
  out.functions.resize(task.reward_configs.size());
  for (std::int64_t i = 0; i < num_samples; ++i, row += columns) {
    bool faulted = false;
    for (std::size_t f = 0; f < task.reward_configs.size(); ++f) {
      faulted = faulted || row[2 * f] == kFailed;
      out.failed = out.failed || row[2 * f] < kNone;
    }
    for (std::size_t f = 0; f < task.reward_configs.size(); ++f) {
      const bool counts = row[2 * f] == kScored && !faulted;
      out.functions[f].push_back(counts ? std::optional(row[2 * f + 1]) : std::nullopt);
      out.scored = out.scored || counts;
    }
    out.num_faulted += faulted ? 1 : 0;
    out.lengths.push_back(row[columns - 2]);
    out.endings.push_back(static_cast<Ending>(static_cast<int>(row[columns - 1])));
  }
  return out;
}

}  // namespace tailor::trainer
