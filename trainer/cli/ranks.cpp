#include "trainer/cli/ranks.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <thread>
#include <vector>

#include "configs/reader.hpp"
#include "distributed/mpi_runtime.hpp"
#include "distributed/nccl_group.hpp"
#include "distributed/peer_watch.hpp"
#include "models/files/mapped_file.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/metrics/terminal.hpp"
#include "trainer/parallel/agree.hpp"

namespace tailor::trainer::cli {
namespace {

using distributed::Reduce;

// main() must know, whatever was thrown:
std::atomic<bool> mpi_runs = false;
bool only_here = false;  // the error that is under way is none of all ranks

/// TAILOR_TIMEOUT_S, for clusters whose ranks are further apart in time than usual.
std::chrono::milliseconds time_limit() {
  constexpr std::chrono::minutes kDefault(10);
  const char* text = std::getenv("TAILOR_TIMEOUT_S");
  if (text == nullptr) return kDefault;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(seconds >= 0.1) || seconds > 1e6)
    throw configs::ConfigError(std::string("TAILOR_TIMEOUT_S: expected seconds, at least 0.1, "
                                           "found \"") +
                               text + '"');
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000.0));
}

/// srun without an MPI plugin starts tasks that know nothing of each other: every one would run the
/// whole job.
void refuse_tasks_without_ranks() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr || std::atoll(tasks) <= 1) return;
  throw configs::ConfigError(std::string("srun started ") + tasks +
                             " tasks without telling them their ranks; start it with "
                             "`srun --mpi=pmix`, or with one task");
}

/// The cores that a process may run on. Launchers bind ranks to some of a machine's.
struct Seat {
  std::array<char, 256> host{};
  cpu_set_t cores{};
};

/// This rank's share of the cores it may use, each divided among the ranks that may use it.
std::int64_t share_of_cores(distributed::Group& world) {
  Seat own;
  gethostname(own.host.data(), own.host.size() - 1);
  if (sched_getaffinity(0, sizeof own.cores, &own.cores) != 0) CPU_SET(0, &own.cores);
  auto bytes = at::empty({1, static_cast<std::int64_t>(sizeof(Seat))}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), &own, sizeof own);
  const auto gathered = world.all_gather(bytes);
  std::vector<Seat> seats(static_cast<std::size_t>(world.size()));
  std::memcpy(seats.data(), gathered.const_data_ptr(), gathered.nbytes());
  double share = 0.0;
  for (std::size_t core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &own.cores)) continue;
    share += 1.0 / static_cast<double>(std::ranges::count_if(seats, [&](const Seat& seat) {
               return seat.host == own.host && CPU_ISSET(core, &seat.cores);
             }));
  }
  constexpr double kRounding = 1e-6;
  return std::max<std::int64_t>(static_cast<std::int64_t>(share + kRounding), 1);
}

std::exception_ptr caught(const std::function<void()>& work) {
  try {
    work();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

std::string ended_by(int rank) {
  return "an error of rank " + std::to_string(rank) + ", which tells it, ends the job";
}

constexpr int kPeers = 4;  // the code of a peer or a wire that failed

/// MPI_Finalize lasts too long. MPI is beyond MPI_Abort; the launcher ends who has not ended.
[[noreturn]] void end_unfinished(std::chrono::milliseconds limit) {
  mpi_runs = false;
  const double seconds = std::chrono::duration<double>(limit).count();
  tell_and_end({kPeers, "MPI_Finalize: a rank has stopped while MPI ends: no answer within " +
                            configs::number_text(seconds) + " s"});
  std::_Exit(kPeers);
}

}  // namespace

Ranks::Ranks() {
  if (!distributed::under_mpi_launcher()) {
    refuse_tasks_without_ranks();
    world_ = distributed::make_single_group();
    cores_ = share_of_cores(*world_);
    return;
  }
  distributed::mpi_start(nullptr, nullptr);
  mpi_runs = true;
  // A stopped rank is found by its silence, so that calls may take as long as honest work does.
  constexpr std::chrono::seconds kSilence(10);
  const auto watch = std::make_shared<distributed::PeerWatch>(kSilence);
  world_ = distributed::make_mpi_group(
      {.timeout = time_limit(), .trouble = [watch] { return watch->trouble(); }});
  watch->start(*world_);
  cores_ = share_of_cores(*world_);
  if (!leads()) set_log_level(LogLevel::Error);
}

void Ranks::log_to(const std::filesystem::path& folder) {
  together([&] {
    open_log_file(folder / ("rank-" + std::to_string(rank()) + ".log"));
    std::array<char, 256> host{};
    gethostname(host.data(), host.size() - 1);
    log_to_file(LogLevel::Info, "rank " + std::to_string(rank()) + " of " + std::to_string(size()) +
                                    ", process " + std::to_string(getpid()) + " on " + host.data());
  });
}

void Ranks::finish() {
  if (!mpi_runs) return;
  // The launcher may end a rank as soon as another has ended with a code other than 0.
  std::cout.flush();
  // All have come by then and have nothing left to do.
  constexpr std::chrono::milliseconds kMost = std::chrono::minutes(1);
  const auto limit = std::min(time_limit(), kMost);
  distributed::mpi_finish(std::move(world_), limit, [limit] { end_unfinished(limit); });
  mpi_runs = false;
}

std::string Ranks::shared_text(const std::string& file) {
  std::string text;
  by_first([&] { text = models::read_text_file(file); });
  return from_first(text);
}

std::string Ranks::from_first(const std::string& text) {
  auto size = at::full({1}, static_cast<std::int64_t>(text.size()), at::kLong);
  world_->broadcast(size, 0);
  auto bytes = at::empty({*size.const_data_ptr<std::int64_t>()}, at::kByte);
  if (leads() && !text.empty()) std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  world_->broadcast(bytes, 0);
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

at::Device Ranks::device(const ModelConfig& config) {
  const auto seat = size() > 1 ? distributed::mpi_node_rank(*world_) : distributed::NodeRank{};
  at::Device out = at::kCPU;
  together([&] {
    out = choose_device(config, seat);
    if (out.is_cuda() && size() > 1 && !distributed::has_nccl()) {
      if (config.device == "cuda")
        throw configs::ConfigError(
            config.device_place +
            ": expected a program built with NCCL for cuda on several ranks; use cpu, "
            "or one rank");
      out = at::kCPU;
    }
  });
  return any_rank(out.is_cpu(), *world_) ? at::Device(at::kCPU) : out;
}

distributed::Mesh Ranks::mesh(const ParallelConfig& parallel, at::Device device) {
  distributed::MeshSizes sizes{.tp = static_cast<int>(parallel.tensor_parallel_size),
                               .ep = static_cast<int>(parallel.expert_parallel_size),
                               .pp = static_cast<int>(parallel.pipeline_parallel_size),
                               .dp_shard = static_cast<int>(parallel.dp_shard_size)};
  together([&] {
    try {
      sizes = distributed::fit_mesh(sizes, size());
    } catch (const distributed::MeshError& error) {
      throw configs::ConfigError(parallel.place + "." + error.what());
    }
  });
  if (device.is_cpu() || size() == 1) return distributed::make_mesh(*world_, sizes);
  const auto gpus = distributed::make_nccl_group(world_->split(/*color=*/0, "gpus"), device.index(),
                                                 {.timeout = time_limit()});
  return distributed::make_mesh(*gpus, sizes);
}

void Ranks::together(const std::function<void()>& work) {
  if (size() == 1 || stack_traces_wanted()) return work();
  const auto error = caught(work);
  // All at once: how many failed, and which was the first.
  auto failed = at::full({size()}, 0, at::kLong);
  if (error) failed.mutable_data_ptr<std::int64_t>()[rank()] = explain(error).code;
  world_->all_reduce(failed, Reduce::Sum);
  const auto* codes = failed.const_data_ptr<std::int64_t>();
  int first = -1, number = 0;
  for (int r = 0; r < size(); ++r) {
    if (codes[r] == 0) continue;
    if (first < 0) first = r;
    ++number;
  }
  if (number == 0) return;
  if (rank() != first) {
    log_to_file(LogLevel::Error, error ? explain(error).text : ended_by(first));
    throw Silent{static_cast<int>(codes[first])};
  }
  only_here = number < size();
  std::rethrow_exception(error);
}

void Ranks::by_first(const std::function<void()>& work) {
  if (size() == 1 || stack_traces_wanted()) {
    if (leads()) work();
    return;
  }
  const auto error = leads() ? caught(work) : nullptr;
  auto code = at::full({1}, error ? explain(error).code : 0, at::kLong);
  world_->broadcast(code, 0);
  if (error) std::rethrow_exception(error);
  const auto failed = *code.const_data_ptr<std::int64_t>();
  if (failed == 0) return;
  log_to_file(LogLevel::Error, ended_by(0));
  throw Silent{static_cast<int>(failed)};
}

void refuse_several_ranks(const std::string& command) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || std::atoll(value) <= 1) continue;
    throw configs::ConfigError("`tailor " + command + "` runs on one rank, but was started on " +
                               value + " (" + name +
                               "); start it without mpirun, or with one task: `tailor train` alone "
                               "shares its work");
  }
}

void wait_to_be_ended(int exit_code) {
  std::this_thread::sleep_for(std::chrono::seconds(10));
  if (mpi_runs) distributed::mpi_abort(exit_code);
}

void tell_and_end(const Failure& failure, const std::string& trace) {
  // At once: another rank that fails alike may end this one.
  log_to_file(LogLevel::Error, trace.empty() ? failure.text : failure.text + '\n' + trace);
  const int rank = distributed::launcher_rank();
  // Rank 0 prints and ends all within it; where MPI does not run, the launcher does when it sees
  // it.
  constexpr std::chrono::milliseconds kTurn(500), kLongTurn(10'000);
  if (rank > 0) std::this_thread::sleep_for(mpi_runs ? kTurn : kLongTurn);
  // The text of kPeers names the rank.
  const bool names_rank = failure.code != kPeers && (only_here || rank > 0);
  // One write: that of another rank may come at the same time.
  std::cerr << "error: " + (names_rank ? "rank " + std::to_string(rank) + ": " : "") +
                   printable(failure.text) + '\n' + trace
            << std::flush;
  if (mpi_runs) distributed::mpi_abort(failure.code);
}

}  // namespace tailor::trainer::cli
