#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "configs/reader.hpp"
#include "trainer/rewards/exchange.hpp"
#include "trainer/rewards/external.hpp"
#include "trainer/rewards/python_worker.hpp"
#include "trainer/rewards/worker_pool.hpp"

namespace tailor::trainer {
namespace {

using nlohmann::json;

/// Takes a sample's answer over into the scores.
void settle_sample(Scores& scores, std::size_t index, Answer answer) {
  if (answer.fault.empty())
    scores.values[index] = answer.value;
  else
    scores.faults.push_back({.index = index, .reason = std::move(answer.fault)});
}

Scores in_order(Scores scores) {
  std::ranges::sort(scores.faults, {}, &RewardFault::index);
  return scores;
}

class CommandReward : public Reward {
 public:
  CommandReward(RewardConfig config, PoolOptions options)
      : Reward(std::move(config)), pool_(std::move(options)) {}

  Scores score(std::span<const Judged> samples) override {
    Scores scores;
    scores.values.resize(samples.size());
    std::vector<Call> calls;
    for (std::size_t i = 0; i < samples.size(); ++i)
      calls.push_back({.request = single_request(samples[i]) + '\n', .samples = {i}});
    pool_.run(
        std::move(calls),
        [&](const Call& call, const Outcome& outcome) {
          settle_sample(scores, call.samples[0],
                        outcome.line ? read_single_answer(*outcome.line)
                                     : Answer{.value = {}, .fault = outcome.fault});
          return std::vector<Call>();
        },
        cancelled());
    return in_order(std::move(scores));
  }

 private:
  WorkerPool pool_;
};

class PythonReward : public Reward {
 public:
  PythonReward(RewardConfig config, PoolOptions options)
      : Reward(std::move(config)), pool_(std::move(options)) {}

  Scores score(std::span<const Judged> samples) override {
    Scores scores;
    scores.values.resize(samples.size());
    bool late = false, late_alone = false;  // a batch, or a sample, timed out
    const auto settle = [&](const Call& call, const Outcome& outcome) {
      const bool alone = call.samples.size() == 1;
      (alone ? late_alone : late) |= outcome.timed_out;
      auto answer = outcome.line ? read_batch_answer(*outcome.line, call.samples.size())
                                 : BatchAnswer{.answers = {}, .fault = outcome.fault};
      std::vector<Call> again;
      if (answer.fault.empty()) {
        for (std::size_t i = 0; i < call.samples.size(); ++i)
          settle_sample(scores, call.samples[i], std::move(answer.answers[i]));
      } else if (alone) {
        settle_sample(scores, call.samples[0], {.value = {}, .fault = answer.fault});
      } else {
        for (const auto index : call.samples) again.push_back(call_for(samples, {index}));
      }
      return again;
    };
    pool_.run(shares(samples), settle, cancelled());
    // The samples are sound and only too many for one call's time: ask for fewer from now on.
    if (late && !late_alone) batch_limit_ = std::max<std::size_t>(1, last_batch_ / 2);
    return in_order(std::move(scores));
  }

 private:
  static Call call_for(std::span<const Judged> samples, std::vector<std::size_t> indices) {
    return {.request = batch_request(samples, indices) + '\n', .samples = std::move(indices)};
  }

  /// Equal runs of neighbours, one a worker, or more where a batch is limited.
  std::vector<Call> shares(std::span<const Judged> samples) {
    const auto workers = static_cast<std::size_t>(config().workers);
    const auto share = (samples.size() + workers - 1) / workers;
    last_batch_ = std::min(share, batch_limit_);
    std::vector<Call> out;
    for (std::size_t begin = 0; begin < samples.size(); begin += last_batch_) {
      std::vector<std::size_t> indices(std::min(last_batch_, samples.size() - begin));
      std::iota(indices.begin(), indices.end(), begin);
      out.push_back(call_for(samples, std::move(indices)));
    }
    return out;
  }

  WorkerPool pool_;
  std::size_t batch_limit_ = static_cast<std::size_t>(-1);
  std::size_t last_batch_ = 0;
};

/// What the Python side's first line says against it, or "".
std::string greeting_problem(const std::string& line, const RewardConfig& config) {
  const auto greeting = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!greeting.is_object()) return "said " + excerpt(line) + " in place of its greeting";
  if (greeting.contains("ready")) return "";
  if (greeting.contains("missing")) {
    const auto names = greeting.value("names", std::vector<std::string>());
    const auto near = configs::nearest(config.function, names);
    std::string listed;
    for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 5); ++i)
      listed += (i == 0 ? "; it has " : ", ") + names[i];
    return "has no function \"" + config.function + '"' +
           (!near.empty() ? "; did you mean \"" + near + "\"?" : listed);
  }
  const auto problem = greeting.value("problem", std::string("cannot be imported"));
  const bool memory = problem.find("MemoryError") != std::string::npos ||
                      problem.find("failed to map segment") != std::string::npos ||
                      problem.find("annot allocate memory") != std::string::npos;
  return problem + (memory && config.memory_limit_mb > 0
                        ? " (memory_limit_mb is " + std::to_string(config.memory_limit_mb) + ')'
                        : "");
}

PoolOptions pool_options(const RewardConfig& config, const std::string& program,
                         const std::string& key) {
  const auto file = find_program(program, config.cwd);
  if (!file)
    throw configs::ConfigError(
        config.place + '.' + key + ": " +
        (program.find('/') == std::string::npos
             ? "there is no program \"" + program + "\" on PATH"
             : "no such program, or it may not be run: " + (config.cwd / program).string()));
  return {.child = {.program = *file,
                    .arguments = {program},
                    .cwd = config.cwd,
                    .memory_limit_mb = config.memory_limit_mb},
          .workers = config.workers,
          .timeout_s = config.timeout_s,
          .start_timeout_s = {},
          .greeting_problem = {},
          .max_restarts = config.max_restarts};
}

}  // namespace

std::unique_ptr<Reward> make_python_reward(const RewardConfig& config) {
  auto options = pool_options(config, config.python_executable, "python_executable");
  options.child.arguments.insert(options.child.arguments.end(),
                                 {"-c", kPythonWorker, config.file.string(), config.function});
  options.start_timeout_s = config.start_timeout_s;
  options.greeting_problem = [config](const std::string& line) {
    return greeting_problem(line, config);
  };
  try {
    return std::make_unique<PythonReward>(config, std::move(options));
  } catch (const StartError& error) {
    throw configs::ConfigError(config.place + ".python: " + config.file.string() + ": " +
                               error.what());
  }
}

std::unique_ptr<Reward> make_command_reward(const RewardConfig& config) {
  if (config.command.empty()) throw configs::ConfigError(config.place + ".command: missing");
  auto options = pool_options(config, config.command[0], "command");
  options.child.arguments = config.command;
  try {
    return std::make_unique<CommandReward>(config, std::move(options));
  } catch (const StartError& error) {
    throw configs::ConfigError(config.place + ".command: " + config.command[0] + ": " +
                               error.what());
  }
}

}  // namespace tailor::trainer
