// What launchers tell a rank, in any build.
#include <cstdlib>
#include <initializer_list>

#include "distributed/mpi_runtime.hpp"

namespace tailor::distributed {

bool under_mpi_launcher() {
  // Open MPI's mpirun; any launcher that speaks PMIx or PMI, such as srun and MPICH's mpiexec.
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

}  // namespace tailor::distributed
