#pragma once

#include <string>

namespace tailor::distributed {

/// Throws CommError with MPI's text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const std::string& call);

}  // namespace tailor::distributed
