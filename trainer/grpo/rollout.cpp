// n rollouts, S tokens of all of them.
#include "trainer/grpo/rollout.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "models/files/file_error.hpp"

namespace tailor::trainer {
namespace {

using Floats = std::vector<float> Rollout::*;
constexpr std::pair<const char*, Floats> kTokenValues[] = {
    {"sampler_logprobs", &Rollout::sampler_logprobs},
    {"old_logprobs", &Rollout::old_logprobs},
    {"reference_logprobs", &Rollout::reference_logprobs},
    {"policy_mask", &Rollout::policy_mask},
    {"kept", &Rollout::kept}};
constexpr std::int64_t kFacts = 6;  // group, row, tokens, counts, rank, stopped

template <typename T>
std::vector<T> listed(const at::Tensor& tensor) {
  const auto x = tensor.contiguous();
  const auto* first = x.const_data_ptr<T>();
  return {first, first + x.numel()};
}

const at::Tensor* find(const NamedTensors& tensors, const std::string& name) {
  const auto found = std::ranges::find(tensors, name, &NamedTensors::value_type::first);
  return found == tensors.end() ? nullptr : &found->second;
}

}  // namespace

GroupRange groups_of_update(const RolloutBatch& batch, std::int64_t update,
                            std::int64_t num_iterations) {
  const auto in_pass = std::max<std::int64_t>(batch.num_updates / num_iterations, 1);
  const auto slice = update % in_pass;
  return {.begin = batch.num_groups * slice / in_pass,
          .end = batch.num_groups * (slice + 1) / in_pass};
}

int owner_of(std::int64_t group, std::int64_t num_groups, std::int64_t updates_in_pass,
             int num_ranks) {
  for (std::int64_t slice = 0; slice < updates_in_pass; ++slice) {
    const auto begin = num_groups * slice / updates_in_pass,
               end = num_groups * (slice + 1) / updates_in_pass;
    if (group >= begin && group < end)
      return static_cast<int>((group - begin) * num_ranks / (end - begin));
  }
  return 0;
}

at::Tensor gathered(const at::Tensor& part, distributed::Group& data) {
  if (data.size() == 1) return part;
  const auto rows = data.all_gather(at::full({1}, part.size(0), at::kLong));
  const auto* first = rows.const_data_ptr<std::int64_t>();
  return data.all_gather_v(part, std::vector<std::int64_t>(first, first + rows.numel()));
}

NamedTensors gather_rollouts(const RolloutBatch& batch, distributed::Group& data) {
  std::vector<std::int64_t> facts, ids;
  std::vector<double> advantages;
  for (const auto& rollout : batch.rollouts) {
    facts.insert(facts.end(), {rollout.group, rollout.row, rollout.size(), rollout.counts ? 1 : 0,
                               static_cast<std::int64_t>(data.rank()), rollout.stopped ? 1 : 0});
    ids.insert(ids.end(), rollout.ids.begin(), rollout.ids.end());
    advantages.push_back(rollout.advantage);
  }
  NamedTensors out{{"batch", at::tensor({batch.num_groups, batch.num_updates, batch.updates_done,
                                         std::int64_t{batch.has_spread ? 1 : 0},
                                         static_cast<std::int64_t>(data.size()), batch.sampled_at},
                                        at::kLong)},
                   {"facts", gathered(at::tensor(facts, at::kLong).view({-1, kFacts}), data)},
                   {"advantages", gathered(at::tensor(advantages, at::kDouble), data)},
                   {"ids", gathered(at::tensor(ids, at::kLong), data)}};
  for (const auto& [name, member] : kTokenValues) {
    std::vector<float> values;
    for (const auto& rollout : batch.rollouts)
      values.insert(values.end(), (rollout.*member).begin(), (rollout.*member).end());
    // A rank without rollouts has none either; all the others have the same lists.
    const auto all = gathered(at::tensor(values, at::kFloat), data);
    if (all.numel() > 0) out.emplace_back(name, all);
  }
  return out;
}

RolloutBatch scatter_rollouts(const NamedTensors& saved, std::int64_t num_iterations,
                              std::int64_t num_rows, const distributed::Group& data,
                              const std::string& file) {
  const auto named = [&](const char* name) -> const at::Tensor& {
    if (const auto* tensor = find(saved, name)) return *tensor;
    throw models::FileError(file + ": " + name + " is missing");
  };
  const auto require = [&](bool holds, const char* what) {
    if (!holds) throw models::FileError(file + ": " + what);
  };
  const auto numbers = listed<std::int64_t>(named("batch"));
  require(numbers.size() == 6, "batch: expected six numbers");
  RolloutBatch batch{.num_groups = numbers[0],
                     .num_updates = numbers[1],
                     .updates_done = numbers[2],
                     .has_spread = numbers[3] != 0,
                     .sampled_at = numbers[5],
                     .rollouts = {}};
  const bool same_ranks = numbers[4] == data.size();
  const auto facts = listed<std::int64_t>(named("facts")), ids = listed<std::int64_t>(named("ids"));
  const auto advantages = listed<double>(named("advantages"));
  const auto count = static_cast<std::int64_t>(advantages.size());
  const auto num_ids = static_cast<std::int64_t>(ids.size());
  require(static_cast<std::int64_t>(facts.size()) == count * kFacts,
          "facts and advantages: expected as many rows");
  const auto in_pass = std::max<std::int64_t>(batch.num_updates / num_iterations, 1);

  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto* fact = facts.data() + i * kFacts;
    const auto length = fact[2];
    require(fact[1] >= 0 && fact[1] < num_rows, "facts: a row that the data does not have");
    require(length > 0 && length <= num_ids - begin, "ids: expected as many as facts tell");
    Rollout rollout{.group = fact[0],
                    .row = fact[1],
                    .stopped = fact[5] != 0,
                    .counts = fact[3] != 0,
                    .advantage = advantages[static_cast<std::size_t>(i)]};
    rollout.ids.assign(ids.begin() + begin, ids.begin() + begin + length);
    for (const auto& [name, member] : kTokenValues) {
      const auto* tensor = find(saved, name);
      if (tensor == nullptr) continue;
      require(tensor->numel() == num_ids, "values of tokens: expected one an id");
      rollout.*member = listed<float>(tensor->narrow(0, begin, length));
    }
    begin += length;
    const auto owner =
        same_ranks ? fact[4] : owner_of(rollout.group, batch.num_groups, in_pass, data.size());
    if (owner == data.rank()) batch.rollouts.push_back(std::move(rollout));
  }
  std::ranges::stable_sort(batch.rollouts, {}, &Rollout::group);
  return batch;
}

}  // namespace tailor::trainer
