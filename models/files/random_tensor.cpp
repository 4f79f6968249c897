#include "models/files/random_tensor.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "models/kernels/random_normal.hpp"

namespace tailor::models {

at::Tensor normal_tensor(const std::vector<std::int64_t>& shape, double deviation,
                         RandomStream random) {
  constexpr std::int64_t kGrain = 4096;  // draws that outweigh waking a thread
  auto out = at::empty(shape, at::kFloat);
  auto* const values = out.mutable_data_ptr<float>();
  at::parallel_for(0, out.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i)
      values[i] =
          static_cast<float>(deviation * kernels::random_normal(random.seed, random.stream,
                                                                static_cast<std::uint64_t>(i)));
  });
  return out;
}

}  // namespace tailor::models
