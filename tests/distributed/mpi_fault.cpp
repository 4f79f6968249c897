// A rank goes wrong under mpirun, in the way that the argument says; see mpi_fault_test.py.
#include <ATen/ops/ones.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <string>

#include "distributed/group.hpp"
#include "distributed/mpi_runtime.hpp"

namespace {

namespace distributed = tailor::distributed;

void go_wrong(const std::string& fault) {
  if (fault == "throw") throw std::runtime_error("no such file");
  if (fault == "stop") std::raise(SIGSTOP);
  if (fault == "kill") std::raise(SIGKILL);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string fault = argv[1];
  distributed::mpi_start(&argc, &argv);
  int code = 1;
  try {
    const auto group = distributed::make_mpi_group({.timeout = std::chrono::seconds(2)});
    auto tensor = at::ones({100'000});
    for (int i = 0; i < 3; ++i) {
      if (i == 2 && group->rank() == group->size() - 1) go_wrong(fault);
      group->all_reduce(tensor, distributed::Reduce::Sum);
    }
  } catch (const distributed::CommError& e) {
    code = 4;
    std::cerr << "error: " << e.what() << std::endl;
  } catch (const std::exception& e) {
    code = 2;
    std::cerr << "error: " << e.what() << std::endl;
  }
  distributed::mpi_abort(code);
}
