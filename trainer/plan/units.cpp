#include "trainer/plan/units.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace tailor::trainer::plan {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr std::array<Unit, 8> kSizes = {{{"B", 1.0},
                                         {"kB", 1e3},
                                         {"MB", 1e6},
                                         {"GB", 1e9},
                                         {"TB", 1e12},
                                         {"MiB", 1048576.0},
                                         {"GiB", 1073741824.0},
                                         {"TiB", 1099511627776.0}}};
constexpr std::array<Unit, 6> kBandwidths = {{{"MB/s", 1e6},
                                              {"GB/s", 1e9},
                                              {"TB/s", 1e12},
                                              {"GiB/s", 1073741824.0},
                                              {"Gb/s", 1e9 / 8.0},
                                              {"Gbit/s", 1e9 / 8.0}}};

template <std::size_t N>
std::optional<double> parse(const std::string& text, const std::array<Unit, N>& units) {
  double number = 0.0;
  const auto* last = text.data() + text.size();
  auto [end, error] = std::from_chars(text.data(), last, number);
  if (error != std::errc() || !std::isfinite(number) || number <= 0.0) return {};
  while (end != last && *end == ' ') ++end;
  for (const auto& unit : units)
    if (std::string_view(end, last) == unit.name) return number * unit.factor;
  return {};
}

std::string format(const char* pattern, double number) {
  std::array<char, 64> out{};
  std::snprintf(out.data(), out.size(), pattern, number);
  return out.data();
}

/// Three figures or so with the largest unit that leaves at least 1.
template <std::size_t N>
std::string with_unit(double number, const std::array<Unit, N>& units) {
  auto unit = units.front();
  for (const auto& larger : units)
    if (std::abs(number) >= larger.factor) unit = larger;
  const double value = number / unit.factor;
  const char* pattern = value >= 99.95 ? "%.0f " : value >= 9.995 ? "%.1f " : "%.2f ";
  return format(pattern, value) + std::string(unit.name);
}

}  // namespace

std::optional<double> parse_size(const std::string& text) { return parse(text, kSizes); }

std::optional<double> parse_bandwidth(const std::string& text) { return parse(text, kBandwidths); }

std::string size_text(double bytes) {
  constexpr std::array<Unit, 5> kUnits = {
      {{"B", 1.0}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}}};
  return bytes == 0.0 ? "0" : with_unit(bytes, kUnits);
}

std::string seconds_text(double seconds) {
  constexpr std::array<Unit, 3> kUnits = {{{"us", 1e-6}, {"ms", 1e-3}, {"s", 1.0}}};
  return seconds == 0.0 ? "0" : with_unit(seconds, kUnits);
}

std::string share_text(double share) { return format("%.1f %%", 100.0 * share); }

std::string count_text(double number) {
  constexpr std::array<Unit, 4> kUnits = {{{"", 1.0}, {"M", 1e6}, {"B", 1e9}, {"T", 1e12}}};
  return with_unit(number, kUnits);
}

}  // namespace tailor::trainer::plan
