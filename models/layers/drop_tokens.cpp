#include "models/layers/drop_tokens.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tailor::models {
namespace {

/// A chosen pair: its place in (T, K), and the weight that ranks it.
struct Slot {
  std::int64_t at;
  float weight;
};

}  // namespace

std::int64_t expert_capacity(std::int64_t num_tokens, const RouterConfig& config, double factor) {
  const auto mean = static_cast<double>(num_tokens * config.num_experts_per_tok) /
                    static_cast<double>(config.num_experts);
  constexpr double kRounding = 1e-12;  // 110 * 1.1 is a little more than 121
  const auto wanted = std::ceil(mean * factor * (1.0 - kRounding));
  // A factor may ask for more than integers hold; a token goes to an expert once.
  return wanted >= static_cast<double>(num_tokens) ? num_tokens : static_cast<std::int64_t>(wanted);
}

at::Tensor within_capacity(const Routes& routes, const RouterConfig& config,
                           const ExpertCapacity& capacity,
                           std::span<const std::int64_t> document_offsets) {
  auto kept_TK = routes.ids_TK.cpu().clone();  // decided in host memory
  const auto weights_TK = routes.weights_TK.detach().cpu().contiguous();
  auto* id = kept_TK.mutable_data_ptr<std::int64_t>();
  const auto* weight = weights_TK.const_data_ptr<float>();
  const auto slots = kept_TK.size(1);
  std::vector<std::vector<Slot>> by_expert(static_cast<std::size_t>(config.num_experts));
  for (std::size_t d = 0; d + 1 < document_offsets.size(); ++d) {
    const auto begin = document_offsets[d], end = document_offsets[d + 1];
    const auto most =
        static_cast<std::size_t>(expert_capacity(end - begin, config, capacity.factor));
    for (auto& expert : by_expert) expert.clear();
    for (auto at = begin * slots; at < end * slots; ++at)
      by_expert[static_cast<std::size_t>(id[at])].push_back({at, weight[at]});
    for (auto& expert : by_expert) {
      if (expert.size() <= most) continue;
      if (capacity.drop == ExpertCapacity::Drop::Probs)
        std::ranges::stable_sort(expert, std::ranges::greater(), &Slot::weight);
      for (auto i = most; i < expert.size(); ++i) id[expert[i].at] = -1;
    }
  }
  return kept_TK.to(routes.ids_TK.device());
}

}  // namespace tailor::models
