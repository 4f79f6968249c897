#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "models/layers/sharding.hpp"
#include "peft/lora_config.hpp"

namespace tailor::peft {

/// A (r, in) and B (out, r), float32: a bfloat16 parameter drops updates below 1/256 of itself.
struct Factors {
  at::Tensor A_RI, B_OR;
};

/// What an initialiser may depend on. Draws are a function of the seed, the layer's path and the
/// entry's place, so that factors depend on neither the order of layers nor the number of ranks.
struct InitSite {
  std::int64_t in, out, r;
  std::uint64_t seed;
  std::string path;
};

/// HF PEFT's initialisers. A: Kaiming uniform with a = sqrt(5), which is U(-1/sqrt(in),
/// 1/sqrt(in)).
Factors init_default(const InitSite& site);   // `true`: B = 0
Factors init_gaussian(const InitSite& site);  // A ~ N(0, 1/r^2), B = 0
Factors init_random(
    const InitSite& site);  // `false`: B ~ U(-1/sqrt(r), 1/sqrt(r)); not an identity

Factors init_factors(InitLora init, const InitSite& site);

/// The parts of whole factors that go with the part of W that is held here. Factors are made whole,
/// then cut, so that their values do not depend on how many ranks share the layer.
Factors part_of(Factors whole, const models::Sharding& sharding);

}  // namespace tailor::peft
