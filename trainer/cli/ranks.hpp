#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "distributed/group.hpp"
#include "distributed/mesh.hpp"
#include "trainer/cli/errors.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer::cli {

/// The ranks of this job: those that mpirun or srun started, or this process alone, which never
/// starts MPI. Made once, by a command that knows what to do with several.
class Ranks {
 public:
  Ranks();  // ranks beside the first tell errors alone on stderr
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  distributed::Group& world() { return *world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  bool leads() const { return rank() == 0; }

  /// The text of a file as rank 0 reads it: all ranks see the same job.
  std::string shared_text(const std::string& file);
  std::string from_first(const std::string& text);  // rank 0's text, on all

  /// What config.device means for this rank, a GPU of its own for all ranks or the CPU for all.
  /// Throws as together() does, for `cuda` where not all have one.
  at::Device device(const ModelConfig& config);

  /// The mesh of a job; its groups reach the memory of `device`. Throws as together() does,
  /// configs::ConfigError with the place of its `parallel` section where the sizes do not fit the
  /// number of ranks.
  distributed::Mesh mesh(const ParallelConfig& parallel, at::Device device = at::kCPU);

  /// Does `work`, which does not communicate, on every rank and waits for all. Where some fail, the
  /// first of them throws its error and the others throw Silent: one error is printed. With
  /// --debug errors pass unhandled, so that a stack trace shows where they come from.
  void together(const std::function<void()>& work);
  void by_first(const std::function<void()>& work);  // likewise, but rank 0 alone does it

  /// What this rank logs also goes to FOLDER/rank-N.log, behind what is there; see open_log_file().
  /// Throws as together() does.
  void log_to(const std::filesystem::path& folder);

  /// Collective, as the last call, behind the end of every mesh: waits for all ranks and ends MPI.
  /// No other member may be called behind it. Throws CommError. Without it main() ends the job, see
  /// tell_and_end().
  void finish();

  /// This process' share of the machine's cores among the ranks on it, at least 1.
  std::int64_t cores() const { return cores_; }

 private:
  std::unique_ptr<distributed::Group> world_;
  std::int64_t cores_ = 0;
};

/// For commands that run on one rank: throws configs::ConfigError where a launcher started several,
/// each of which would do all of the work.
void refuse_several_ranks(const std::string& command);

/// Another rank tells the error.
struct Silent {
  int exit_code;
};

/// Behind Silent, or where the launcher's first process says the same: gives it time to print the
/// error and end all.
void wait_to_be_ended(int exit_code);

/// Behind an error of this process: prints it, with the rank where the others have not failed
/// alike, and `trace` below it, and ends all ranks with its code where MPI runs in this process;
/// they would wait for this one. Where all fail at once the first one prints. The log file of the
/// rank, where there is one, has it in any case.
void tell_and_end(const Failure& failure, const std::string& trace = "");

}  // namespace tailor::trainer::cli
