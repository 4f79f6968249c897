#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace tailor::distributed {

class Group;

/// Whether mpirun, srun or another launcher started this process as a rank of an MPI job. Needs no
/// MPI: a program started alone is spared its start.
bool under_mpi_launcher();
int launcher_rank();  // of this process, as the launcher says; 0 without one

/// MPI from start to end of the program, for main() alone: <mpi.h> stays in this folder. Throws
/// CommError where MPI does not start, and where the launcher and MPI do not agree on the number of
/// ranks: then every rank would run as a job of its own.
void mpi_start(int* argc, char*** argv);

/// Collective, with `world` as the last group that is left: waits for all ranks within the limits
/// of its calls, which throw CommError, before MPI_Finalize, which has none. Where that lasts
/// longer than `limit` because a rank stops in the midst of it, `late` is called on another thread
/// and ends the process.
void mpi_finish(std::unique_ptr<Group> world, std::chrono::milliseconds limit,
                const std::function<void()>& late);

/// Ends every rank of the job with this code, at any time, also from a rank that cannot go on while
/// the others wait for it: leaving without it would let them wait until their time is up. What was
/// written to stderr is out before.
[[noreturn]] void mpi_abort(int exit_code);

/// This process among those of its machine, to divide cores and devices by.
struct NodeRank {
  int rank = 0, size = 1;
};
NodeRank mpi_node_rank(Group& world);  // collective over `world`, the group of all ranks

}  // namespace tailor::distributed
