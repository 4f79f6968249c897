#include "distributed/mpi_runtime.hpp"

#include <mpi.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "distributed/group.hpp"
#include "distributed/mpi_check.hpp"

namespace tailor::distributed {
namespace {

/// Ranks of this job as the launcher says; 0: it does not.
int announced_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* text = std::getenv(name)) return std::atoi(text);
  return 0;
}

/// Before a call of MPI that has no time limit: who stopped while it waited for a late rank is
/// missed here. One barrier does not tell, since a rank says that it has come before it waits.
void meet(Group& world) {
  world.barrier();
  world.barrier();
}

}  // namespace

void mpi_start(int* argc, char*** argv) {
  int provided = 0;  // one thread calls MPI at a time, not always the same one
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int size = 0;
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  const int announced = announced_ranks();
  if (announced > 1 && size == 1) {
    throw CommError("the launcher started " + std::to_string(announced) +
                    " tasks, but MPI sees one: start with mpirun, or with srun --mpi=pmix");
  }
}

void mpi_finish(std::unique_ptr<Group> world, std::chrono::milliseconds limit,
                const std::function<void()>& late) {
  meet(*world);
  std::mutex mutex;
  std::condition_variable_any never;
  const std::jthread guard([&](const std::stop_token& finished) {
    std::unique_lock lock(mutex);
    never.wait_for(lock, finished, limit, [] { return false; });
    if (!finished.stop_requested()) late();
  });
  world.reset();
  MPI_Finalize();
}

void mpi_abort(int exit_code) {
  std::fflush(nullptr);
  std::signal(SIGALRM, SIG_DFL);
  alarm(5);  // a launcher that does not answer shall not keep this rank alive
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

NodeRank mpi_node_rank(Group& world) {
  meet(world);
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  NodeRank out;
  check_mpi(MPI_Comm_rank(node, &out.rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node, &out.size), "MPI_Comm_size");
  MPI_Comm_free(&node);
  return out;
}

}  // namespace tailor::distributed
