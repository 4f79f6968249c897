#pragma once

#include <functional>
#include <memory>
#include <string>

#include "distributed/group.hpp"
#include "distributed/mesh.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer::cli {

/// The ranks of this job: those that mpirun or srun started, or this process alone, which never
/// starts MPI. Made once, by a command that knows what to do with several.
class Ranks {
 public:
  Ranks();   // ranks beside the first log warnings and errors alone
  ~Ranks();  // ends MPI where nothing was thrown; else main() ends the job, see end_all_ranks()
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  distributed::Group& world() { return *world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  bool leads() const { return rank() == 0; }

  /// The text of a file as rank 0 reads it: all ranks see the same job.
  std::string shared_text(const std::string& file);

  /// The mesh of a job. Throws configs::ConfigError with the place of its `parallel` section where
  /// the sizes do not fit the number of ranks.
  distributed::Mesh mesh(const ParallelConfig& parallel);

  /// Does `work` on every rank and waits for all. Where some fail, the first of them throws its
  /// error, with its rank where not all failed, and the others throw Silent: one error is printed.
  void together(const std::function<void()>& work);

  /// This process' share of the machine's cores among the ranks on it, at least 1.
  std::int64_t cores() const { return cores_; }

 private:
  std::unique_ptr<distributed::Group> world_;
  std::int64_t cores_ = 0;
  int exceptions_;
};

/// For commands that run on one rank: throws configs::ConfigError where a launcher started several,
/// each of which would do all of the work.
void refuse_several_ranks(const std::string& command);

/// Another rank tells the error.
struct Silent {
  int exit_code;
};

/// For main(), behind Silent: gives the rank with the error time to print it and end all.
void wait_to_be_ended();

/// For main(), behind an error: ends all ranks with this code, where MPI runs in this process; the
/// others would wait for this one. Else returns.
void end_all_ranks(int exit_code);

}  // namespace tailor::trainer::cli
