// What launchers tell a rank, in any build.
#include <cstdlib>
#include <initializer_list>

#include "distributed/mpi_runtime.hpp"

namespace tailor::distributed {

namespace {

const char* rank_text() {
  // Open MPI's mpirun; any launcher that speaks PMIx or PMI, such as srun and MPICH's mpiexec.
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
    if (const char* text = std::getenv(name)) return text;
  return nullptr;
}

}  // namespace

bool under_mpi_launcher() { return rank_text() != nullptr; }

int launcher_rank() {
  const char* text = rank_text();
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace tailor::distributed
