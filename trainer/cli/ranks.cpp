#include "trainer/cli/ranks.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "configs/reader.hpp"
#include "distributed/mpi_runtime.hpp"
#include "distributed/peer_watch.hpp"
#include "models/files/file_error.hpp"
#include "models/files/mapped_file.hpp"
#include "trainer/cli/errors.hpp"
#include "trainer/metrics/log.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer::cli {
namespace {

using distributed::Reduce;

bool mpi_runs = false;  // main() must know, whatever was thrown

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

std::int64_t usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

/// An error of one rank among several, told with its number; the type decides the exit code.
[[noreturn]] void rethrow_with_rank(const std::exception_ptr& error, int rank) {
  const auto failure = explain(error);
  const auto text = "rank " + std::to_string(rank) + ": " + failure.text;
  constexpr int kInput = 2, kNumbers = 3;
  if (failure.code == kInput) throw models::FileError(text);
  if (failure.code == kNumbers) throw NumericError(text);
  throw distributed::CommError(text);
}

}  // namespace

Ranks::Ranks() : exceptions_(std::uncaught_exceptions()) {
  if (!distributed::under_mpi_launcher()) {
    refuse_tasks_without_ranks();
    world_ = distributed::make_single_group();
    cores_ = usable_cores();
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
  const auto node = distributed::mpi_node_rank();
  // mpirun may have bound this rank to cores of its own already.
  const auto usable = usable_cores();
  auto most = at::full({1}, usable, at::kLong);
  world_->all_reduce(most, Reduce::Max);
  const auto machine = std::max<std::int64_t>(sysconf(_SC_NPROCESSORS_ONLN), 1);
  cores_ = usable < machine ? usable : std::max<std::int64_t>(usable / node.size, 1);
  if (!leads()) set_log_level(LogLevel::Warn);
}

Ranks::~Ranks() {
  world_.reset();
  if (!mpi_runs || std::uncaught_exceptions() > exceptions_) return;
  distributed::mpi_finish();
  mpi_runs = false;
}

std::string Ranks::shared_text(const std::string& file) {
  std::string text;
  together([&] {
    if (leads()) text = models::read_text_file(file);
  });
  auto size = at::full({1}, static_cast<std::int64_t>(text.size()), at::kLong);
  world_->broadcast(size, 0);
  auto bytes = at::empty({*size.const_data_ptr<std::int64_t>()}, at::kByte);
  if (leads()) std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  world_->broadcast(bytes, 0);
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

distributed::Mesh Ranks::mesh(const ParallelConfig& parallel) {
  try {
    const auto sizes =
        distributed::fit_mesh({.tp = static_cast<int>(parallel.tensor_parallel_size),
                               .ep = static_cast<int>(parallel.expert_parallel_size),
                               .pp = static_cast<int>(parallel.pipeline_parallel_size),
                               .dp_shard = static_cast<int>(parallel.dp_shard_size)},
                              size());
    return distributed::make_mesh(*world_, sizes);
  } catch (const distributed::MeshError& error) {
    throw configs::ConfigError(parallel.place + "." + error.what());
  }
}

void Ranks::together(const std::function<void()>& work) {
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
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
  if (rank() != first) throw Silent{static_cast<int>(codes[first])};
  if (number == size()) std::rethrow_exception(error);
  rethrow_with_rank(error, rank());
}

void refuse_several_ranks(const std::string& command) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || std::atoll(value) <= 1) continue;
    throw configs::ConfigError("`tailor " + command + "` runs on one rank, but was started on " +
                               value + " (" + name +
                               "); start it without mpirun, or with one task");
  }
}

void wait_to_be_ended() {
  if (mpi_runs) std::this_thread::sleep_for(std::chrono::seconds(10));
  end_all_ranks(1);
}

void end_all_ranks(int exit_code) {
  if (mpi_runs) distributed::mpi_abort(exit_code);
}

}  // namespace tailor::trainer::cli
