#include "peft/init.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "models/kernels/random_normal.hpp"

namespace tailor::peft {
namespace {

using models::kernels::random_bits;
using models::kernels::random_normal;
using models::kernels::stream_of;
using models::kernels::to_uniform;

/// Entry i of a matrix is draw(stream, i).
template <class Draw>
at::Tensor drawn(std::int64_t rows, std::int64_t columns, const char* factor, const InitSite& site,
                 Draw draw) {
  const auto stream = stream_of(std::string(factor) + ' ' + site.path);
  auto matrix = at::empty({rows, columns}, at::kFloat);
  auto* const values = matrix.data_ptr<float>();
  for (std::int64_t i = 0; i < matrix.numel(); ++i)
    values[i] = static_cast<float>(draw(stream, static_cast<std::uint64_t>(i)));
  return matrix;
}

at::Tensor uniform(std::int64_t rows, std::int64_t columns, double bound, const char* factor,
                   const InitSite& site) {
  return drawn(rows, columns, factor, site, [&](std::uint64_t stream, std::uint64_t i) {
    return bound * (2.0 * to_uniform(random_bits(site.seed, stream, i)) - 1.0);
  });
}

at::Tensor kaiming_A(const InitSite& site) {
  return uniform(site.r, site.in, 1.0 / std::sqrt(static_cast<double>(site.in)), "lora_A", site);
}

}  // namespace

Factors init_default(const InitSite& site) {
  return {.A_RI = kaiming_A(site), .B_OR = at::zeros({site.out, site.r}, at::kFloat)};
}

Factors init_gaussian(const InitSite& site) {
  const auto std_dev = 1.0 / static_cast<double>(site.r);
  auto A_RI = drawn(site.r, site.in, "lora_A", site, [&](std::uint64_t stream, std::uint64_t i) {
    return std_dev * random_normal(site.seed, stream, i);
  });
  return {.A_RI = std::move(A_RI), .B_OR = at::zeros({site.out, site.r}, at::kFloat)};
}

Factors init_random(const InitSite& site) {
  const auto bound = 1.0 / std::sqrt(static_cast<double>(site.r));
  return {.A_RI = kaiming_A(site), .B_OR = uniform(site.out, site.r, bound, "lora_B", site)};
}

Factors init_factors(InitLora init, const InitSite& site) {
  switch (init) {
    case InitLora::Gaussian:
      return init_gaussian(site);
    case InitLora::Random:
      return init_random(site);
    case InitLora::Default:
      break;
  }
  return init_default(site);
}

Factors part_of(Factors whole, const models::Sharding& sharding) {
  using Dim = models::Sharding::Dim;
  const auto cut = [&](at::Tensor& factor, std::int64_t dim) {
    const auto length = factor.size(dim) / sharding.count;
    // A copy: a view would keep the whole alive.
    factor =
        factor.narrow(dim, sharding.index * length, length).clone(at::MemoryFormat::Contiguous);
  };
  if (sharding.dim == Dim::In) cut(whole.A_RI, 1);
  if (sharding.dim == Dim::Out) cut(whole.B_OR, 0);
  return whole;
}

}  // namespace tailor::peft
