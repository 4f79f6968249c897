// The main of every test that runs under mpirun.
#define CATCH_CONFIG_RUNNER
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "distributed/group.hpp"
#include "distributed/mpi_runtime.hpp"

int main(int argc, char** argv) {
  namespace distributed = tailor::distributed;
  distributed::mpi_start(&argc, &argv);
  int worst = Catch::Session().run(argc, argv);
  constexpr std::chrono::seconds kLimit(20);
  auto group = distributed::make_mpi_group({.timeout = kLimit});
  auto failed = at::full({}, worst, at::kInt);
  group->all_reduce(failed, distributed::Reduce::Max);
  worst = failed.item<int>();  // every rank returns the worst: the failure of one is that of all
  distributed::mpi_finish(std::move(group), kLimit, [] { std::_Exit(EXIT_FAILURE); });
  return worst;
}
