#include "models/kernels/random.hpp"

#include <catch2/catch.hpp>
#include <cmath>

namespace kernels = tailor::models::kernels;

TEST_CASE("philox: equals the published known answers", "[random]") {
  // kat_vectors of Random123 1.14, philox4x32 with 10 rounds
  using Words = std::array<std::uint32_t, 4>;
  constexpr std::uint32_t ones = 0xFFFFFFFF;
  CHECK(kernels::philox({0, 0, 0, 0}, {0, 0}) ==
        Words{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8});
  CHECK(kernels::philox({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD});
  CHECK(
      kernels::philox({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}) ==
      Words{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1});
}

TEST_CASE("uniform draws lie in [0, 1) with the moments of the distribution", "[random]") {
  CHECK(kernels::to_uniform(std::uint32_t{0xFFFFFFFF}) < 1.0F);
  CHECK(kernels::to_uniform(~std::uint64_t{0}) < 1.0);
  CHECK(kernels::to_uniform(std::uint32_t{0}) == 0.0F);
  const int num_draws = 100000;
  double sum = 0.0, squares = 0.0, products = 0.0, last = 0.5;
  for (int i = 0; i < num_draws; ++i) {
    const double u = kernels::random_uniform(7, 3, static_cast<std::uint64_t>(i));
    sum += u, squares += u * u, products += u * last, last = u;
  }
  const double tolerance = 5.0 / std::sqrt(num_draws);  // over 10 standard errors of each mean
  CHECK(std::abs(sum / num_draws - 1.0 / 2) < tolerance);
  CHECK(std::abs(squares / num_draws - 1.0 / 3) < tolerance);
  CHECK(std::abs(products / num_draws - 1.0 / 4) < tolerance);  // neighbours are independent
}

TEST_CASE("every purpose, number and seed has a stream of its own", "[random]") {
  static_assert(kernels::stream_of("a") != kernels::stream_of("b"));
  static_assert(kernels::stream_of("a", {1, 2}) != kernels::stream_of("a", {2, 1}));
  static_assert(kernels::stream_of("a", {0}) != kernels::stream_of("a"));
  static_assert(kernels::random_bits(1, 2, 3) == kernels::random_bits(1, 2, 3));
  CHECK(kernels::random_bits(1, 2, 3) != kernels::random_bits(2, 2, 3));
  CHECK(kernels::random_bits(1, 2, 3) != kernels::random_bits(1, 3, 3));
  CHECK(kernels::random_bits(1, 2, 3) != kernels::random_bits(1, 2, std::uint64_t{3} << 32));
}
