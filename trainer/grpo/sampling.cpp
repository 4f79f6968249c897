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
  // A distribution that was cut or bent is not the one that the trainer's numbers are of.
  const bool keeps = !config.shapes_distribution() && config.min_new_tokens == 0;
  if (keeps) out.sampler_logprobs = completion.sampling_logprobs;
  if (completion.end_token) {
    out.ids.push_back(completion.end_token->id);
    if (keeps) out.sampler_logprobs.push_back(completion.end_token->sampling_logprob);
  }
  out.stopped = completion.finish_reason == models::FinishReason::Stop;
  out.counts = out.stopped || !config.mask_truncated_completions;
  return out;
}

/// Rows of the table that ranks add up: each holds its own samples, zeros elsewhere. Columns: for
/// every reward whether it scored (1), failed (-1) or answered none (0), and what; then length, and
/// whether it ended by itself.
at::Tensor own_table(const GrpoTask& task, const std::vector<Rollout>& rollouts,
                     const Scored& scored, std::int64_t num_samples, std::int64_t num_generations,
                     std::vector<std::string>& faults) {
  const auto columns = static_cast<std::int64_t>(2 * task.reward_configs.size() + 2);
  auto table = at::zeros({num_samples, columns}, at::kDouble);
  std::vector<double*> rows;
  for (const auto place : places_of(rollouts, num_generations))
    rows.push_back(table.mutable_data_ptr<double>() + place * columns);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i][columns - 2] = static_cast<double>(rollouts[i].size());
    rows[i][columns - 1] = rollouts[i].stopped ? 1.0 : 0.0;
  }
  for (std::size_t f = 0; f < scored.functions.size(); ++f) {
    const auto& result = scored.functions[f];
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i][2 * f] = result.values.at(i) ? 1.0 : 0.0;
      rows[i][2 * f + 1] = result.values.at(i).value_or(0.0);
    }
    for (const auto& fault : result.faults) {
      rows.at(fault.index)[2 * f] = -1.0;
      faults.push_back(task.reward_configs[f].name + ": completion " +
                       std::to_string(fault.index % static_cast<std::size_t>(num_generations)) +
                       " of group " + std::to_string(rollouts.at(fault.index).group) + ": " +
                       fault.reason);
    }
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

void warn_of_faults(const std::vector<std::string>& faults) {
  constexpr std::size_t kShown = 3;
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

std::vector<Judged> judged_of(const GrpoTask& task, const std::vector<PromptRow>& rows,
                              const std::vector<Rollout>& rollouts) {
  std::vector<Judged> out;
  for (const auto& rollout : rollouts) {
    const auto& row = rows.at(static_cast<std::size_t>(rollout.row));
    auto ids = rollout.ids;
    if (std::ranges::find(task.stop_ids, ids.back()) != task.stop_ids.end()) ids.pop_back();
    out.push_back({.prompt_json = row.prompt_json,
                   .completion = task.tokenizer->decode(ids, /*skip_special_tokens=*/true),
                   .columns_json = row.columns_json,
                   .num_tokens = rollout.size(),
                   .stopped = rollout.stopped});
  }
  return out;
}

Judgement judge(const GrpoTask& task, const std::vector<Rollout>& rollouts, const Scored& scored,
                std::int64_t num_groups, std::int64_t num_generations,
                const distributed::Mesh& mesh) {
  Judgement out;
  const auto num_samples = num_groups * num_generations;
  // Ranks of tp hold the same samples: the first has asked the rewards, which may have moods.
  auto table = own_table(task, rollouts, scored, num_samples, num_generations, out.faults);
  mesh.tp->broadcast(table, 0);
  mesh.data->all_reduce(table, distributed::Reduce::Sum);
  out.faults = all_lines(out.faults, *mesh.data);

  const auto columns = table.size(1);
  const auto* row = table.const_data_ptr<double>();
  out.functions.resize(task.reward_configs.size());
  for (std::int64_t i = 0; i < num_samples; ++i, row += columns) {
    for (std::size_t f = 0; f < task.reward_configs.size(); ++f) {
      out.functions[f].push_back(row[2 * f] > 0.0 ? std::optional(row[2 * f + 1]) : std::nullopt);
      out.scored = out.scored || row[2 * f] > 0.0;
      out.failed = out.failed || row[2 * f] < 0.0;
    }
    out.lengths.push_back(row[columns - 2]);
    out.stopped.push_back(row[columns - 1] != 0.0);
  }
  return out;
}

}  // namespace tailor::trainer
