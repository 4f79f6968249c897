#include "trainer/plan/layout.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "configs/reader.hpp"

namespace tailor::trainer::plan {
namespace {

using Axis = std::pair<const char*, std::int64_t Layout::*>;
constexpr std::array<Axis, 5> kAxes = {{{"tp", &Layout::tp},
                                        {"ep", &Layout::ep},
                                        {"pp", &Layout::pp},
                                        {"dp", &Layout::dp},
                                        {"dp_shard", &Layout::dp_shard}}};

[[noreturn]] void refuse(const std::string& problem) {
  throw configs::ConfigError("--layout: " + problem);
}

void set(Layout& layout, const std::string& assignment) {
  const auto equals = assignment.find('=');
  const auto name = assignment.substr(0, equals);
  const auto number = equals == std::string::npos ? "" : assignment.substr(equals + 1);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  const auto* axis =
      std::find_if(kAxes.begin(), kAxes.end(), [&](const Axis& one) { return name == one.first; });
  if (axis == kAxes.end())
    refuse("expected tp, ep, pp, dp or dp_shard, as in tp=2,ep=8, found \"" + assignment + "\"");
  if (error != std::errc() || end != number.data() + number.size() || value < 1)
    refuse("expected " + name + "=N with N from 1, found \"" + assignment + "\"");
  auto& size = layout.*(axis->second);
  if (size != 0) refuse(name + " is given twice");
  size = value;
}

/// "tp = 8 does not divide num_key_value_heads = 4"
std::string does_not_divide(const char* axis, std::int64_t value, const char* what,
                            std::int64_t whole) {
  return std::string(axis) + " = " + std::to_string(value) + " does not divide " + what + " = " +
         std::to_string(whole);
}

std::optional<std::string> tensor_objection(const Architecture& a, const ClusterSpec& cluster,
                                            std::int64_t tp) {
  const std::array<std::pair<const char*, std::int64_t>, 6> cut = {
      {{"num_attention_heads", a.num_attention_heads},
       {"num_key_value_heads", a.num_key_value_heads},
       {"vocab_size", a.vocab_size},
       {"intermediate_size", a.intermediate_size},
       {"moe_intermediate_size", a.moe_intermediate_size},
       {"the width of the shared experts", a.shared_expert_width}}};
  for (const auto& [name, whole] : cut)
    if (whole % tp != 0) return does_not_divide("tp", tp, name, whole);
  if (cluster.gpus_per_node % tp != 0 && tp % cluster.gpus_per_node != 0)
    return does_not_divide("tp", tp, "gpus-per-node", cluster.gpus_per_node);
  return {};
}

std::optional<std::string> batch_objection(const Workload& workload, const Layout& layout) {
  const auto once = layout.data_ranks() * workload.micro_batch_tokens();
  if (workload.tokens_per_step % once == 0) return {};
  return std::to_string(layout.data_ranks()) + " ranks with data of their own take " +
         std::to_string(once) +
         " tokens at once, of which tokens-per-step = " + std::to_string(workload.tokens_per_step) +
         " is no multiple";
}

}  // namespace

std::string Layout::text() const {
  std::string out;
  for (const auto& [axis, member] : kAxes)
    out += (out.empty() ? "" : " ") + std::string(axis) + "=" + std::to_string(this->*member);
  return out;
}

Layout parse_layout(const std::string& text, std::int64_t num_gpus) {
  Layout out{.tp = 0, .ep = 0, .pp = 0, .dp = 0, .dp_shard = 0};  // 0: not given
  for (std::size_t at = 0; at <= text.size();) {
    const auto comma = std::min(text.find(',', at), text.size());
    set(out, text.substr(at, comma - at));
    at = comma + 1;
  }
  for (auto* size : {&out.tp, &out.ep, &out.pp, &out.dp_shard})
    *size = std::max<std::int64_t>(*size, 1);
  const auto model_ranks = out.tp * out.ep * out.pp;
  const auto product = "tp * ep * pp = " + std::to_string(model_ranks);
  if (num_gpus % model_ranks != 0)
    refuse(product + " does not divide gpus = " + std::to_string(num_gpus));
  if (out.dp == 0) out.dp = num_gpus / model_ranks;
  if (out.num_ranks() != num_gpus) {
    refuse(product + " and dp = " + std::to_string(out.dp) + " make " +
           std::to_string(out.num_ranks()) + " ranks of gpus = " + std::to_string(num_gpus));
  }
  return out;
}

std::optional<std::string> objection(const Architecture& a, const ClusterSpec& cluster,
                                     const Workload& workload, const Layout& layout) {
  if (auto problem = tensor_objection(a, cluster, layout.tp)) return problem;
  if (layout.ep > 1 && a.num_experts == 0) return "ep > 1, but the model has no experts";
  if (layout.ep > 1 && a.num_experts % layout.ep != 0)
    return does_not_divide("ep", layout.ep, "the number of experts", a.num_experts);
  if (layout.pp > a.num_hidden_layers) {
    return "pp = " + std::to_string(layout.pp) +
           " is more than num_hidden_layers = " + std::to_string(a.num_hidden_layers);
  }
  if (layout.data_ranks() % layout.dp_shard != 0)
    return does_not_divide("dp_shard", layout.dp_shard, "dp * ep", layout.data_ranks());
  if (layout.ep % layout.dp_shard != 0 && layout.dp_shard % layout.ep != 0) {
    return "dp_shard = " + std::to_string(layout.dp_shard) +
           " and ep = " + std::to_string(layout.ep) + " do not divide one another";
  }
  return batch_objection(workload, layout);
}

Stage stage(const Architecture& a, const Layout& layout, std::int64_t index) {
  const auto layers = a.num_hidden_layers;
  return {.first = index * layers / layout.pp,
          .last = (index + 1) * layers / layout.pp,
          .has_embedding = index == 0,
          .has_head = index + 1 == layout.pp};
}

}  // namespace tailor::trainer::plan
