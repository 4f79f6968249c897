#include "distributed/nccl_group.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAFunctions.h>

#include <catch2/catch.hpp>
#include <utility>
#include <vector>

#include "distributed/mpi_runtime.hpp"

// A rank that leaves a test early would let the others hang: only CHECK.
namespace tailor::distributed {
namespace {

const GroupOptions kOptions{.timeout = std::chrono::seconds(60)};

at::DeviceIndex gpu_of_rank = 0;  // known behind gpu_group()

/// None where this machine has fewer GPUs than ranks.
std::unique_ptr<Group> gpu_group() {
  auto world = make_mpi_group(kOptions);
  const auto node = mpi_node_rank(*world);
  if (c10::cuda::device_count() < node.size) {
    WARN("left out: " << node.size << " ranks, " << int{c10::cuda::device_count()} << " GPUs");
    return nullptr;
  }
  gpu_of_rank = static_cast<at::DeviceIndex>(node.rank);
  return make_nccl_group(std::move(world), node.rank, kOptions);
}

at::Tensor on_gpu(const at::Tensor& tensor) {
  return tensor.to(at::Device(at::kCUDA, gpu_of_rank));
}

}  // namespace

TEST_CASE("groups of GPUs reduce, move and exchange tensors on them") {
  const auto group = gpu_group();
  if (!group) return;
  const std::int64_t R = group->size(), rank = group->rank();
  for (const auto dtype :
       {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kInt, at::kLong}) {
    for (const std::int64_t size : {0, 1, 7, 1000}) {
      CAPTURE(R, rank, c10::toString(dtype), size);
      auto tensor = on_gpu(at::full({size, 2}, rank + 1, dtype));
      group->all_reduce(tensor, Reduce::Sum);
      CHECK(at::equal(tensor.cpu(), at::full({size, 2}, R * (R + 1) / 2, dtype)));

      tensor.fill_(rank);
      group->all_reduce(tensor, Reduce::Max);
      CHECK(at::equal(tensor.cpu(), at::full({size, 2}, R - 1, dtype)));

      tensor.fill_(rank);
      const auto whole = group->all_gather(tensor);
      for (std::int64_t r = 0; r < R; ++r)
        CHECK(at::equal(whole.narrow(0, r * size, size).cpu(), at::full({size, 2}, r, dtype)));
      CHECK(at::equal(group->reduce_scatter(whole).cpu(), at::full({size, 2}, R * rank, dtype)));

      auto column = tensor.t();
      group->broadcast(column, static_cast<int>(R - 1));
      CHECK(at::equal(tensor.cpu(), at::full({size, 2}, R - 1, dtype)));
    }
  }
}

TEST_CASE("groups of GPUs exchange rows and send messages both ways") {
  const auto group = gpu_group();
  if (!group) return;
  const int R = group->size(), rank = group->rank();
  // Every rank sends r + 1 rows to rank r.
  std::vector<std::int64_t> input_splits, output_splits(static_cast<std::size_t>(R), rank + 1);
  for (int r = 0; r < R; ++r) input_splits.push_back(r + 1);
  const auto rows = on_gpu(at::full({R * (R + 1) / 2, 3}, rank, at::kFloat));
  const auto out = group->all_to_all_v(rows, input_splits, output_splits).cpu();
  for (int r = 0; r < R; ++r)
    CHECK(
        at::equal(out.narrow(0, r * (rank + 1), rank + 1), at::full({rank + 1, 3}, r, at::kFloat)));

  if (R > 1) {
    const auto sent = on_gpu(at::full({100'000}, rank, at::kFloat));
    auto received = on_gpu(at::zeros({100'000}));
    const int before = (rank + R - 1) % R;
    auto pending = group->start_send(sent, (rank + 1) % R);
    group->recv(received, before);
    pending.wait();
    CHECK(at::equal(received.cpu(), at::full({100'000}, before, at::kFloat)));
  }
  auto host = at::full({3}, 1, at::kLong);
  group->split(0, "part")->all_reduce(host, Reduce::Sum);
  CHECK(at::equal(host, at::full({3}, R, at::kLong)));
}

}  // namespace tailor::distributed
