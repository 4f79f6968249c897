// E experts, R rank, I in, O out, F width of an expert, H hidden_size.
#include "peft/fused_experts.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <regex>
#include <set>
#include <utility>

#include "models/files/file_error.hpp"
#include "peft/lora.hpp"
#include "peft/target_modules.hpp"

namespace tailor::peft {
namespace {

using models::FileError;
using Factors = std::map<std::string, at::Tensor>;

constexpr const char* kGateUp = "gate_up_proj";
constexpr const char* kDown = "down_proj";

const ExpertNames kMixtral{
    .block = "block_sparse_moe", .gate_proj = "w1", .up_proj = "w3", .down_proj = "w2"};

double scale_at(const LoraConfig& config, const std::string& path, std::int64_t rank) {
  const auto r = static_cast<double>(rank);
  return config.alpha_of(path) / (config.use_rslora ? std::sqrt(r) : r);
}

/// What patterns before all others must say of a path.
struct Wanted {
  std::string pattern;  // a regular expression
  std::string path;     // one path that it means
  std::int64_t rank;
  double scale;
};

/// One pattern where all layers agree, one a layer where they do not, none where nothing is needed.
void set_patterns(LoraConfig& config, std::vector<Wanted> each, const std::string& shared_pattern) {
  const auto holds = [&](const Wanted& wanted) {
    return config.rank_of(wanted.path) == wanted.rank &&
           config.scale_of(wanted.path) == wanted.scale;
  };
  if (std::ranges::all_of(each, holds)) return;
  const auto like_first = [&](const Wanted& wanted) {
    return wanted.rank == each.front().rank && wanted.scale == each.front().scale;
  };
  if (std::ranges::all_of(each, like_first)) {
    each.resize(1);
    each.front().pattern = shared_pattern;
  }
  std::vector<std::pair<std::string, double>> ranks, alphas;
  for (const auto& [pattern, path, rank, scale] : each) {
    const auto r = static_cast<double>(rank);
    ranks.emplace_back(pattern, r);
    alphas.emplace_back(pattern, scale * (config.use_rslora ? std::sqrt(r) : r));
  }
  config.rank_pattern.insert(config.rank_pattern.begin(), ranks.begin(), ranks.end());
  config.alpha_pattern.insert(config.alpha_pattern.begin(), alphas.begin(), alphas.end());
}

std::string escaped(const std::string& path) {
  return std::regex_replace(path, std::regex(R"(\.)"), R"(\.)");
}

/// Before 0.19.1 the factors of these parameters were exchanged.
std::optional<bool> natural_by_version(const std::string& version) {
  std::array<int, 3> v{};
  if (std::sscanf(version.c_str(), "%d.%d.%d", &v[0], &v[1], &v[2]) < 2) return std::nullopt;
  return v >= std::array<int, 3>{0, 19, 1};
}

FusedPair take_pair(Factors& factors, const std::string& path) {
  FusedPair pair;
  for (const char factor : {'A', 'B'}) {
    const auto found = factors.find(factor_key(path, factor));
    if (found == factors.end()) continue;
    (factor == 'A' ? pair.A : pair.B) = found->second;
    factors.erase(found);
  }
  return pair;
}

/// gate_up reads H and answers 2 F; down reads F and answers H.
bool fit(const FusedPair& gate_up, const FusedPair& down) {
  return gate_up.A.size(1) == down.B.size(0) && gate_up.B.size(0) == 2 * down.A.size(1);
}

FusedPair exchanged(const FusedPair& pair) { return {pair.B.t(), pair.A.t()}; }  // sizes alone

struct Layer {
  std::optional<FusedPair> gate_up, down;
  bool natural = true;
};

Layer told_apart(FusedPair inner, FusedPair outer, const std::string& place) {
  for (const bool natural : {true, false})
    for (const bool inner_first : {true, false}) {
      const auto& first = inner_first ? inner : outer;
      const auto& second = inner_first ? outer : inner;
      if (fit(natural ? first : exchanged(first), natural ? second : exchanged(second)))
        return {.gate_up = first, .down = second, .natural = natural};
    }
  throw FileError(place + ": the factors' shapes fit no pair of gate_up_proj and down_proj");
}

/// gate and up of a block-diagonal pair have half the rank each.
bool is_block_diagonal(const ExpertPair& pair) {
  const auto rank = pair.A_ERI.size(1), width = pair.B_EOR.size(1) / 2;
  if (rank % 2 != 0) return false;
  const auto zero = [&](std::int64_t row, std::int64_t column) {
    return !pair.B_EOR.narrow(1, row, width).narrow(2, column, rank / 2).any().item<bool>();
  };
  return zero(0, rank / 2) && zero(width, 0);
}

void put(Factors& factors, const std::string& experts, const std::string& projection,
         const at::Tensor& A_ERI, const at::Tensor& B_EOR) {
  for (std::int64_t e = 0; e < A_ERI.size(0); ++e) {
    const auto path = experts + '.' + std::to_string(e) + '.' + projection;
    factors[factor_key(path, 'A')] = A_ERI.select(0, e).contiguous();
    factors[factor_key(path, 'B')] = B_EOR.select(0, e).contiguous();
  }
}

/// The experts' path as the family has it.
std::string named(const std::string& experts, const ExpertNames& names) {
  const std::string theirs = ".mlp.experts";
  if (!experts.ends_with(theirs)) return experts;
  return experts.substr(0, experts.size() - theirs.size()) + '.' + names.block + ".experts";
}

/// Of a linear layer among target_parameters PEFT looks its weight up in the patterns.
void set_weight_patterns(ExpertFactors& adapter) {
  static const std::regex kLayer(R"(base_model\.model\.(.+)\.lora_A\.weight)");
  auto& config = adapter.config;
  std::vector<Wanted> each;
  for (const auto& [key, factor] : adapter.factors) {
    std::smatch match;
    if (!std::regex_match(key, match, kLayer)) continue;
    const auto path = match[1].str(), weight = path + ".weight";
    if (std::ranges::any_of(adapter.target_parameters,
                            [&](const auto& name) { return names_module(name, weight); }))
      each.push_back({escaped(path), path, config.rank_of(weight), config.scale_of(weight)});
  }
  for (const auto& wanted : each) set_patterns(config, {wanted}, wanted.pattern);
}

/// Linear layers that share a name with experts' projections.
std::vector<std::string> mlp_layers(const Factors& factors) {
  static const std::regex kLayer(
      R"(base_model\.model\.(.+\.(gate_proj|up_proj|down_proj))\.lora_A\.weight)");
  std::vector<std::string> out;
  for (const auto& [key, factor] : factors) {
    std::smatch match;
    if (std::regex_match(key, match, kLayer)) out.push_back(match[1]);
  }
  return out;
}

}  // namespace

ExpertNames expert_names(const std::string& model_type) {
  return model_type == "mixtral" ? kMixtral : ExpertNames{};
}

FusedPair fuse(const ExpertPair& experts) {
  return {experts.A_ERI.flatten(0, 1).contiguous(),
          experts.B_EOR.permute({1, 2, 0}).flatten(1, 2).contiguous()};
}

ExpertPair unfuse(const FusedPair& fused, std::int64_t num_experts) {
  return {fused.A.reshape({num_experts, -1, fused.A.size(1)}),
          fused.B.reshape({fused.B.size(0), -1, num_experts}).permute({2, 0, 1})};
}

FusedPair natural_from_swapped(const FusedPair& old, std::int64_t num_experts) {
  const auto [A_ERO, B_EIR] = unfuse(old, num_experts);  // A acts on the output side there
  return fuse({B_EIR.transpose(1, 2), A_ERO.transpose(1, 2)});
}

void unfuse_experts(ExpertFactors& adapter, const std::string& peft_version,
                    const std::string& file, const ExpertNames& names) {
  auto& config = adapter.config;
  std::set<std::string> parameters;
  for (const auto& parameter : adapter.target_parameters) {
    const auto name = parameter.substr(parameter.rfind('.') + 1);
    if (name == "weight") continue;  // of a linear layer: its keys are those of any
    if (name != kGateUp && name != kDown)
      throw FileError(file +
                      ": target_parameters: expected gate_up_proj or down_proj of experts, " +
                      "found " + models::in_quotes(parameter));
    parameters.insert(name);
  }
  static const std::regex kKey(
      R"(base_model\.model\.(.+\.experts)(\.base_layer)?\.lora_[AB]\.weight)");
  std::map<std::string, bool> layers;  // by the experts' path: with an inner pair
  for (const auto& [key, factor] : adapter.factors) {
    std::smatch match;
    if (std::regex_match(key, match, kKey)) layers[match[1]] |= match[2].matched;
  }
  std::map<std::string, std::vector<Wanted>> wanted;  // by projection
  set_weight_patterns(adapter);  // before there are experts' own keys, which its names would match
  for (const auto& [experts, nested] : layers) {
    const auto place = file + ": " + experts;
    Layer layer;
    if (nested) {
      layer = told_apart(take_pair(adapter.factors, experts + ".base_layer"),
                         take_pair(adapter.factors, experts), place);
    } else {
      const auto natural = natural_by_version(peft_version);
      if (parameters.size() != 1 || !natural)
        throw FileError(place +
                        ": one fused parameter is adapted; its layout needs one name in "
                        "target_parameters and a peft_version in adapter_config.json");
      layer.natural = *natural;
      (*parameters.begin() == kDown ? layer.down : layer.gate_up) =
          take_pair(adapter.factors, experts);
    }
    const auto own = [&](FusedPair pair, const char* name, double& scale) {
      const auto path = experts + '.' + name;
      const auto rank = config.rank_of(path);
      if (pair.A.size(0) % rank != 0)
        throw FileError(place + ": " + std::to_string(pair.A.size(0)) + " rows of " + name +
                        "'s factor are no multiple of its rank " + std::to_string(rank));
      const auto num_experts = pair.A.size(0) / rank;
      scale = scale_at(config, path, rank);
      return unfuse(layer.natural ? pair : natural_from_swapped(pair, num_experts), num_experts);
    };
    const auto ours = named(experts, names);
    const auto add = [&](const std::string& projection, const at::Tensor& A_ERI,
                         const at::Tensor& B_EOR, double scale) {
      put(adapter.factors, ours, projection, A_ERI, B_EOR);
      wanted[projection].push_back({escaped(ours) + R"(\.[0-9]+\.)" + projection,
                                    ours + ".0." + projection, A_ERI.size(1), scale});
    };
    double scale = 0.0;
    if (layer.gate_up) {
      const auto pair = own(*layer.gate_up, kGateUp, scale);
      const auto& [A, B] = pair;
      const auto width = B.size(1) / 2, rank = A.size(1);
      const bool apart = is_block_diagonal(pair);
      const auto half = apart ? rank / 2 : rank, begin = rank - half;
      add(names.gate_proj, A.narrow(1, 0, half), B.narrow(1, 0, width).narrow(2, 0, half), scale);
      add(names.up_proj, A.narrow(1, begin, half), B.narrow(1, width, width).narrow(2, begin, half),
          scale);
    }
    if (layer.down) {
      const auto [A, B] = own(*layer.down, kDown, scale);
      add(names.down_proj, A, B, scale);
    }
  }
  for (auto& [projection, each] : wanted)
    set_patterns(config, std::move(each), R"(experts\.[0-9]+\.)" + projection);
  adapter.target_parameters.clear();
}

void fuse_experts(ExpertFactors& adapter, const std::string& file) {
  static const std::regex kKey(
      R"(base_model\.model\.(.+\.experts)\.([0-9]{1,6})\.([^.]+)\.lora_A\.weight)");
  static const std::map<std::string, std::string> kNames{{kMixtral.gate_proj, "gate_proj"},
                                                         {kMixtral.up_proj, "up_proj"},
                                                         {kMixtral.down_proj, "down_proj"}};
  using Paths = std::map<std::int64_t, std::string>;           // by expert
  std::map<std::string, std::map<std::string, Paths>> layers;  // by experts' path, projection
  for (const auto& [key, factor] : adapter.factors) {
    std::smatch match;
    if (!std::regex_match(key, match, kKey)) continue;
    const auto known = kNames.find(match[3]);
    const std::string projection = known == kNames.end() ? match[3].str() : known->second;
    const auto path = match[1].str() + '.' + match[2].str() + '.' + match[3].str();
    layers[match[1]][projection][std::stoll(match[2])] = path;
  }
  const auto config = adapter.config;  // of the experts, before patterns are added
  const auto stacked = [&](const std::string& experts, const Paths& paths) {
    if (paths.rbegin()->first + 1 != static_cast<std::int64_t>(paths.size()))
      throw FileError(file + ": " + experts + ": factors of an expert are missing");
    std::vector<at::Tensor> A, B;
    for (const auto& [e, path] : paths) {
      auto pair = take_pair(adapter.factors, path);
      if (!pair.A.defined() || !pair.B.defined())
        throw FileError(file + ": " + path + ": one of its two factors is missing");
      if (e > 0 && pair.A.sizes() != A.front().sizes())
        throw FileError(file + ": " + experts + ": its experts differ in rank");
      A.push_back(std::move(pair.A));
      B.push_back(std::move(pair.B));
    }
    return ExpertPair{at::stack(A), at::stack(B)};
  };
  std::map<std::string, std::vector<Wanted>> wanted;  // by parameter
  for (auto& [experts, projections] : layers) {
    const bool gate = projections.contains("gate_proj"), up = projections.contains("up_proj");
    if (gate != up)
      throw FileError(file + ": " + experts +
                      ": PEFT's fused form adapts gate and up together, "
                      "found one of them");
    const bool down = projections.contains("down_proj");
    const auto theirs = std::regex_replace(experts, std::regex(kMixtral.block), "mlp");
    const auto write = [&](const std::string& parameter, const ExpertPair& pair, double scale,
                           bool inner) {
      const auto fused = fuse(pair);
      const auto path = theirs + (inner ? ".base_layer" : "");
      adapter.factors[factor_key(path, 'A')] = fused.A;
      adapter.factors[factor_key(path, 'B')] = fused.B;
      const auto name = theirs + '.' + parameter;
      adapter.target_parameters.push_back(name);
      wanted[parameter].push_back({escaped(name), name, pair.A_ERI.size(1), scale});
    };
    if (gate) {
      const auto& gate_path = projections["gate_proj"].begin()->second;
      const auto& up_path = projections["up_proj"].begin()->second;
      const auto scale = config.scale_of(gate_path);
      const auto ratio = config.scale_of(up_path) / scale;
      const auto [gate_A, gate_B] = stacked(experts, projections["gate_proj"]);
      auto [up_A, up_B] = stacked(experts, projections["up_proj"]);
      if (ratio != 1.0) up_B = up_B * ratio;
      ExpertPair pair;
      if (at::equal(gate_A, up_A)) {
        pair = {gate_A, at::cat({gate_B, up_B}, 1)};
      } else {
        const auto zeros = [](const at::Tensor& rows, const at::Tensor& columns) {
          return at::zeros({rows.size(0), rows.size(1), columns.size(2)}, rows.options());
        };
        pair = {at::cat({gate_A, up_A}, 1), at::cat({at::cat({gate_B, zeros(gate_B, up_B)}, 2),
                                                     at::cat({zeros(up_B, gate_B), up_B}, 2)},
                                                    1)};
      }
      write(kGateUp, pair, scale, /*inner=*/down);
    }
    if (down) {
      const auto scale = config.scale_of(projections["down_proj"].begin()->second);
      write(kDown, stacked(experts, projections["down_proj"]), scale, /*inner=*/false);
    }
  }
  for (const auto& path : mlp_layers(adapter.factors)) {
    const auto name = path + ".weight";
    adapter.target_parameters.push_back(name);
    set_patterns(adapter.config,
                 {{escaped(name), name, config.rank_of(path), config.scale_of(path)}},
                 escaped(name));
  }
  for (auto& [parameter, each] : wanted)
    set_patterns(adapter.config, std::move(each), R"(experts\.)" + parameter);
}

}  // namespace tailor::peft
