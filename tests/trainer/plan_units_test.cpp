#include "trainer/plan/units.hpp"

#include <catch2/catch.hpp>

namespace tailor::trainer::plan {

TEST_CASE("sizes and bandwidths are read with their units, bits apart from bytes") {
  CHECK(parse_size("80GB") == 80e9);
  CHECK(parse_size("80 GiB") == 80.0 * 1024 * 1024 * 1024);
  CHECK(parse_size("1.5TB") == 1.5e12);
  CHECK(parse_bandwidth("450GB/s") == 450e9);
  CHECK(parse_bandwidth("400Gb/s") == 50e9);
  CHECK(parse_bandwidth("3.35TB/s") == 3.35e12);
}

TEST_CASE("what is no quantity with a unit is none") {
  const auto text = GENERATE("", "80", "GB", "80gb", "-1GB", "0GB", "nanGB", "infGB", "80GB/s x");
  CHECK_FALSE(parse_size(text));
  CHECK_FALSE(parse_bandwidth(text));
}

TEST_CASE("quantities are written with three figures") {
  CHECK(size_text(61.06e9) == "61.1 GB");
  CHECK(size_text(311e6) == "311 MB");
  CHECK(size_text(0) == "0");
  CHECK(seconds_text(0.865) == "865 ms");
  CHECK(seconds_text(4.94) == "4.94 s");
  CHECK(seconds_text(228e-6) == "228 us");
  CHECK(share_text(0.111) == "11.1 %");
}

}  // namespace tailor::trainer::plan
