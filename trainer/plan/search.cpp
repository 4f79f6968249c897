#include "trainer/plan/search.hpp"

#include <algorithm>
#include <map>

namespace tailor::trainer::plan {
namespace {

std::vector<std::int64_t> divisors(std::int64_t number) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 1; i <= number; ++i)
    if (number % i == 0) out.push_back(i);
  return out;
}

/// All layouts of that many ranks, axes that the model lacks left at 1.
std::vector<Layout> all_layouts(const Architecture& a, std::int64_t num_gpus) {
  std::vector<Layout> out;
  for (const auto pp : divisors(num_gpus)) {
    for (const auto tp : divisors(num_gpus / pp)) {
      for (const auto ep : divisors(a.num_experts > 0 ? num_gpus / pp / tp : 1)) {
        const Layout layout{.tp = tp, .ep = ep, .pp = pp, .dp = num_gpus / pp / tp / ep};
        for (const auto shard : divisors(layout.data_ranks())) {
          out.push_back(layout);
          out.back().dp_shard = shard;
        }
      }
    }
  }
  return out;
}

class Refusals {
 public:
  void add(const std::string& reason) { ++at(reason).num_layouts; }
  void add_memory(const LayoutCost& cost) {
    const auto& memory = cost.memory();
    auto& entry = at("memory, most of it for " + memory.largest());
    ++entry.num_layouts;
    if (entry.nearest && entry.bytes <= memory.total()) return;
    entry.nearest = cost.layout;
    entry.bytes = memory.total();
  }
  std::vector<Refusal> sorted() const {
    std::vector<Refusal> out;
    for (const auto& [reason, entry] : entries_) out.push_back(entry);
    std::stable_sort(out.begin(), out.end(), [](const Refusal& a, const Refusal& b) {
      return a.num_layouts > b.num_layouts;
    });
    return out;
  }

 private:
  Refusal& at(const std::string& reason) {
    auto& entry = entries_[reason];
    entry.reason = reason;
    return entry;
  }
  std::map<std::string, Refusal> entries_;
};

double bytes_sent(const LayoutCost& cost) {
  double sum = 0.0;
  for (const auto& row : cost.traffic()) sum += row.transfer.bytes;
  return sum;
}

bool better(const LayoutCost& a, const LayoutCost& b) {
  if (a.step_s != b.step_s) return a.step_s < b.step_s;
  return bytes_sent(a) < bytes_sent(b);
}

bool same_but_shard(const Layout& a, Layout b) {
  b.dp_shard = a.dp_shard;
  return a == b;
}

}  // namespace

Proposals propose(const Architecture& a, const AdapterSpec& adapter, const ClusterSpec& cluster,
                  const Workload& workload, std::size_t max_best) {
  Proposals out;
  Refusals refusals;
  std::vector<LayoutCost> fitting;
  for (const auto& layout : all_layouts(a, cluster.num_gpus)) {
    ++out.num_tried;
    if (const auto problem = objection(a, cluster, workload, layout)) {
      refusals.add(*problem);
      continue;
    }
    auto found = cost(a, adapter, cluster, workload, layout);
    if (found.memory().total() > cluster.memory_bytes) {
      refusals.add_memory(found);
      continue;
    }
    ++out.num_fitting;
    if (!fitting.empty() && same_but_shard(fitting.back().layout, layout)) {
      if (better(found, fitting.back())) fitting.back() = std::move(found);
    } else {
      fitting.push_back(std::move(found));
    }
  }
  std::stable_sort(fitting.begin(), fitting.end(), better);
  fitting.resize(std::min(fitting.size(), max_best));
  out.best = std::move(fitting);
  out.refused = refusals.sorted();
  return out;
}

std::optional<std::int64_t> enough_gpus(const Architecture& a, const AdapterSpec& adapter,
                                        const ClusterSpec& cluster, const Workload& workload) {
  constexpr std::int64_t kMost = 4096;
  auto larger = cluster;
  auto work = workload;
  for (; larger.num_gpus <= kMost; larger.num_gpus *= 2, work.tokens_per_step *= 2)
    if (propose(a, adapter, larger, work, 1).num_fitting > 0) return larger.num_gpus;
  return {};
}

}  // namespace tailor::trainer::plan
