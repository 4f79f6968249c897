// Shapes: E routed experts, D hidden size.
#include "models/files/upcycle.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/std.h>
#include <ATen/ops/zeros.h>

#include <unordered_map>
#include <utility>

#include "models/files/balance_router.hpp"
#include "models/files/file_error.hpp"
#include "models/files/made_tensors.hpp"
#include "models/files/random_tensor.hpp"
#include "models/files/upcycle_config.hpp"
#include "models/kernels/random.hpp"

namespace tailor::models {
namespace {

constexpr double kRouterDeviation = 0.02;  // HF's initializer_range

/// One expert's weight: a part of a dense one, perturbed, then scaled.
struct Part {
  std::string dense;  // its name
  TensorRange range;
  double noise, scale;
  RandomStream random;
};

at::Tensor read_part(const TensorSource& dense, const Part& part, at::ScalarType dtype) {
  const auto& range = part.range;
  auto weight = dense.read_slice(part.dense, at::kFloat, range.dim, range.begin, range.length);
  if (part.noise > 0.0) {
    const auto deviation = part.noise * weight.std().item<double>();
    weight = weight + normal_tensor(weight.sizes().vec(), deviation, part.random);
  }
  return (part.scale == 1.0 ? weight : weight * part.scale).to(dtype).contiguous();
}

/// Makes the entries of the sparse checkpoint, layer by layer.
class Upcycler {
 public:
  Upcycler(const Pretrained& dense, const UpcyclePlan& plan, const UpcycleOptions& options)
      : dense_(dense), plan_(plan), options_(options) {
    for (const auto& entry : dense.tensors->entries()) entries_.emplace(entry.name, &entry);
  }

  std::shared_ptr<const TensorSource> tensors() {
    for (std::int64_t layer = 0; layer < plan_.num_layers; ++layer) add_layer(layer);
    for (const auto& entry : dense_.tensors->entries())
      if (!replaced_.contains(entry.name)) add_copy(entry, entry.name);
    return out_;
  }

 private:
  void add_layer(std::int64_t layer) {
    const auto prefix = "model.layers." + std::to_string(layer) + '.';
    const auto& family = plan_.family;
    const auto block = prefix + family.block;
    const auto wide = std::vector{plan_.intermediate_size, plan_.hidden_size};
    const auto& gate = feed_forward(prefix + "mlp.gate_proj.weight", wide);
    const auto& up = feed_forward(prefix + "mlp.up_proj.weight", wide);
    const auto& down = feed_forward(prefix + "mlp.down_proj.weight", {wide[1], wide[0]});
    add_router(layer, block, gate);
    const auto routed_share = family.shared_expert ? 0.5 : 1.0;
    add_experts(gate, block, family.gate_proj, 0, 1.0);
    add_experts(up, block, family.up_proj, 0, 1.0);
    add_experts(down, block, family.down_proj, 1,
                routed_share * static_cast<double>(options_.split));
    if (family.shared_expert) add_shared_expert(block, gate, up, down);
  }

  /// A weight that the sparse layer's take the place of.
  const TensorEntry& feed_forward(const std::string& name, const std::vector<std::int64_t>& shape) {
    const auto found = entries_.find(name);
    if (found == entries_.end())
      throw FileError(dense_.path.string() + ": tensor " + name + " is missing; expected shape " +
                      shape_text(shape));
    if (found->second->shape != shape)
      throw FileError(dense_.path.string() + ": tensor " + name + ": expected shape " +
                      shape_text(shape) + " by " + dense_.config_file + ", found " +
                      shape_text(found->second->shape));
    replaced_.insert(*found);
    return *found->second;
  }

  void add_experts(const TensorEntry& dense, const std::string& block,
                   const std::string& projection, std::int64_t dim, double scale) {
    auto entry = dense;
    auto& length = entry.shape[static_cast<std::size_t>(dim)];
    length /= options_.split;
    entry.num_bytes /= options_.split;
    for (std::int64_t e = 0; e < num_experts(); ++e) {
      entry.name = block + ".experts." + std::to_string(e) + '.' + projection + ".weight";
      const Part part{.dense = dense.name,
                      .range = {dim, e % options_.split * length, length},
                      .noise = options_.noise,
                      .scale = scale,
                      .random = {options_.seed, kernels::stream_of("upcycle " + entry.name)}};
      out_->add(entry, [source = dense_.tensors, part](at::ScalarType dtype) {
        return read_part(*source, part, dtype);
      });
    }
  }

  /// A row for each copy, which its parts share: copies come one after another.
  void add_router(std::int64_t layer, const std::string& block, const TensorEntry& like) {
    const auto name = block + ".gate.weight";
    const auto rows = options_.num_experts, repeats = options_.split, columns = plan_.hidden_size,
               chosen = options_.num_experts_per_tok;
    const auto inputs_TD = options_.router_inputs.empty()
                               ? at::Tensor()
                               : options_.router_inputs[static_cast<std::size_t>(layer)];
    const RandomStream random{
        options_.seed, kernels::stream_of("upcycle router", {static_cast<std::uint64_t>(layer)})};
    out_->add({name, like.dtype, {rows * repeats, columns}, 4 * rows * repeats * columns},
              [=](at::ScalarType dtype) {
                auto router_ED = normal_tensor({rows, columns}, kRouterDeviation, random);
                if (inputs_TD.defined()) router_ED = balance_router(router_ED, inputs_TD, chosen);
                return router_ED.repeat_interleave(repeats, 0).to(dtype);
              });
  }

  void add_shared_expert(const std::string& block, const TensorEntry& gate, const TensorEntry& up,
                         const TensorEntry& down) {
    const auto expert = block + ".shared_expert.";
    add_copy(gate, expert + "gate_proj.weight");
    add_copy(up, expert + "up_proj.weight");
    add_copy(down, expert + "down_proj.weight");
    const std::vector<std::int64_t> shape{1, plan_.hidden_size};
    out_->add({block + ".shared_expert_gate.weight", gate.dtype, shape, 4 * plan_.hidden_size},
              [shape](at::ScalarType dtype) { return at::zeros(shape, dtype); });
  }

  void add_copy(const TensorEntry& dense, const std::string& name) {
    auto entry = dense;
    entry.name = name;
    out_->add(entry, [source = dense_.tensors, from = dense.name](at::ScalarType dtype) {
      return source->read(from, dtype);
    });
  }

  std::int64_t num_experts() const { return options_.num_experts * options_.split; }

  const Pretrained& dense_;
  const UpcyclePlan& plan_;
  const UpcycleOptions& options_;
  std::unordered_map<std::string, const TensorEntry*> entries_, replaced_;
  std::shared_ptr<MadeTensors> out_ = std::make_shared<MadeTensors>();
};

}  // namespace

Pretrained upcycled(const Pretrained& dense, const UpcycleOptions& options) {
  const auto plan = plan_upcycle(dense.config_json, dense.config_file, options);
  auto sparse = dense;
  sparse.config_json = plan.config_json;
  sparse.config_file = dense.config_file + " (upcycled)";
  sparse.tensors = Upcycler(dense, plan, options).tensors();
  return sparse;
}

}  // namespace tailor::models
