// What the tests of external rewards share.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "configs/reader.hpp"
#include "trainer/rewards/process_tree.hpp"
#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

/// A folder with programs, gone at the end.
struct Programs {
  std::filesystem::path dir =
      std::filesystem::temp_directory_path() / ("tailor_external_" + std::to_string(::getpid()));

  Programs() { std::filesystem::create_directories(dir); }
  ~Programs() { std::filesystem::remove_all(dir); }
  Programs(const Programs&) = delete;
  Programs& operator=(const Programs&) = delete;

  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(dir / name) << text;
    std::filesystem::permissions(dir / name, std::filesystem::perms::owner_all);
    return dir / name;
  }
};

inline std::vector<Judged> samples_of(const std::vector<std::string>& completions,
                                      const std::string& prompt = "\"p\"",
                                      const std::string& columns = "{}") {
  std::vector<Judged> out;
  for (const auto& text : completions)
    out.push_back({.prompt_json = prompt, .completion = text, .columns_json = columns});
  return out;
}

inline Scores scores_of(Reward& reward, const std::vector<std::string>& completions) {
  const auto samples = samples_of(completions);
  return reward.score(samples);
}

/// -99: not scored.
inline std::vector<double> values_of(const Scores& scores) {
  std::vector<double> out;
  for (const auto& value : scores.values) out.push_back(value.value_or(-99));
  return out;
}

/// Asks and gives up after a while; whether that ended the wait soon.
inline bool gives_up_soon(Reward& reward, const std::vector<Judged>& samples) {
  using Clock = std::chrono::steady_clock;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    reward.cancel();
  });
  const auto begin = Clock::now();
  bool thrown = false;
  try {
    reward.score(samples);
  } catch (const ScoringCancelled&) {
    thrown = true;
  }
  other.join();
  return thrown && Clock::now() - begin < std::chrono::seconds(4);
}

/// "1: reason; 3: reason".
inline std::string faults_of(const Scores& scores) {
  std::string out;
  for (const auto& fault : scores.faults)
    out += (out.empty() ? "" : "; ") + std::to_string(fault.index) + ": " + fault.reason;
  return out;
}

/// Processes that this one started as reward children, or that those started, and that still run.
inline int num_left() {
  int count = 0;
  const auto mark = std::string(kMarkVariable) + '=' + std::to_string(::getpid()) + '.';
  for (const auto& process : running_processes()) {
    std::ifstream stream("/proc/" + std::to_string(process.pid) + "/environ");
    const std::string environment{std::istreambuf_iterator<char>(stream), {}};
    const bool ours = process.parent == ::getpid() || environment.find(mark) != std::string::npos;
    count += ours && process.pid != ::getpid();
  }
  return count;
}

/// What a job is told that names such a reward; "" where it can start. Nothing it started stays.
inline std::string start_problem(const RewardConfig& config) {
  try {
    make_reward(config);
  } catch (const configs::ConfigError& error) {
    CHECK(num_left() == 0);
    return error.what();
  }
  return "";
}

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace tailor::trainer
