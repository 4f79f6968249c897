#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "models/kernels/random.hpp"
#include "trainer/data/source.hpp"

namespace tailor::trainer {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Integers below a bound, each as likely as the other: of the 2^64 draws the first 2^64 mod bound
/// are refused, so that every remainder has equally many.
class Draws {
 public:
  Draws(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t refused = (0 - bound) % bound;
    for (;;) {
      const auto bits = models::kernels::random_bits(seed_, stream_, counter_++);
      if (bits >= refused) return bits % bound;
    }
  }

 private:
  std::uint64_t seed_, stream_, counter_ = 0;
};

}  // namespace

std::vector<PackedRow> pack_best_fit(const std::vector<std::int64_t>& lengths,
                                     const std::vector<std::int64_t>& order,
                                     std::int64_t max_length) {
  std::vector<std::size_t> places(order.size());  // in `order`, longest document first
  std::iota(places.begin(), places.end(), std::size_t{0});
  const auto length = [&](std::size_t place) { return lengths[index(order[place])]; };
  std::stable_sort(places.begin(), places.end(),
                   [&](std::size_t a, std::size_t b) { return length(a) > length(b); });

  std::vector<std::pair<std::size_t, PackedRow>> rows;  // with the place of the opening document
  std::set<std::pair<std::int64_t, std::size_t>> room;  // free tokens, row
  for (const auto place : places) {
    if (length(place) > max_length)
      throw std::invalid_argument("a document of " + std::to_string(length(place)) +
                                  " tokens does not fit into rows of " +
                                  std::to_string(max_length));
    auto row = rows.size();
    auto free = max_length;
    if (const auto fit = room.lower_bound({length(place), 0}); fit != room.end()) {
      std::tie(free, row) = *fit;
      room.erase(fit);
    } else {
      rows.push_back({place, {}});
    }
    rows[row].second.push_back(order[place]);
    room.insert({free - length(place), row});
  }
  std::sort(rows.begin(), rows.end());

  std::vector<PackedRow> packed;
  packed.reserve(rows.size());
  for (auto& [place, row] : rows) packed.push_back(std::move(row));
  return packed;
}

std::vector<std::int64_t> shuffled(std::int64_t n, std::uint64_t seed, std::int64_t epoch) {
  std::vector<std::int64_t> order(index(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  Draws draws(seed, models::kernels::stream_of("shuffle", {static_cast<std::uint64_t>(epoch)}));
  for (std::size_t i = order.size(); i > 1; --i)  // Fisher and Yates, from the end
    std::swap(order[i - 1], order[draws.below(i)]);
  return order;
}

}  // namespace tailor::trainer
