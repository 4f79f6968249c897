#include "peft/merge.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>

#include <catch2/catch.hpp>

#include "models/files/file_error.hpp"
#include "tests/peft/toy_model.hpp"

using namespace tailor;
using peft::LoraAdapter;
using peft::MergedTensors;
using tests::ToyModel;

namespace {

/// The weights of a model as a checkpoint.
class InMemory final : public models::TensorSource {
 public:
  explicit InMemory(ToyModel& model) {
    for (const auto& parameter : model.parameters()) {
      tensors_.emplace(parameter.name, *parameter.value);
      entries_.push_back({parameter.name, "F32", parameter.shape, 4 * parameter.value->numel()});
    }
  }
  const std::vector<models::TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return tensors_.contains(name); }
  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    return tensors_.at(name).to(dtype);
  }
  void erase(const std::string& name) { tensors_.erase(name); }

 private:
  std::map<std::string, at::Tensor> tensors_;
  std::vector<models::TensorEntry> entries_;
};

}  // namespace

TEST_CASE("merged tensors are W + s B A, rounded once, and the report says what survived",
          "[peft]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  ToyModel model(at::kFloat), bare;
  const auto base = std::make_shared<InMemory>(model);
  const peft::LoraConfig config{.r = 2, .init_lora_weights = peft::InitLora::Random};
  LoraAdapter adapter(bare, config, 1);  // seated in a model without weights
  const MergedTensors merged(base, adapter);
  double delta_squares = 0.0, applied_squares = 0.0, largest = 0.0;
  for (const auto& layer : adapter.layers()) {
    const auto name = layer->path() + ".weight";
    const auto W = base->read(name, at::kFloat);
    const auto delta = (layer->scale() * layer->B().mm(layer->A())).detach();
    const auto found = merged.read(name, dtype);
    CHECK(found.scalar_type() == dtype);
    CHECK(at::equal(found, (W + delta).to(dtype)));
    delta_squares += delta.square().sum().item<double>();
    applied_squares +=
        (found.to(at::kFloat) - W.to(dtype).to(at::kFloat)).square().sum().item<double>();
    largest = std::max(largest, (found.to(at::kFloat) - (W + delta)).abs().max().item<double>());
  }
  const auto report = merged.report();
  CHECK(report.num_layers == 6);
  CHECK(report.delta_norm == Approx(std::sqrt(delta_squares)));
  CHECK(report.applied_norm == Approx(std::sqrt(applied_squares)));
  CHECK(report.max_rounding_error == Approx(largest).margin(1e-12));
  CHECK(report.applied_share() == Approx(1.0).epsilon(0.05));
}

TEST_CASE("tensors that are not adapted are read as they are", "[peft]") {
  ToyModel model(at::kFloat), bare;
  const auto base = std::make_shared<InMemory>(model);
  const MergedTensors merged(base, LoraAdapter(bare, {.r = 2}, 1));
  for (const std::string name : {"lm_head.weight", "model.layers.0.v_proj.bias"})
    CHECK(at::equal(merged.read(name, at::kFloat), base->read(name, at::kFloat)));
  CHECK(merged.entries().size() == base->entries().size());
  CHECK_FALSE(merged.contains("model.layers.9.q_proj.weight"));
}

TEST_CASE("an update that the dtype swallows shows as a share of zero", "[peft]") {
  ToyModel model(at::kBFloat16), bare;
  const auto base = std::make_shared<InMemory>(model);
  LoraAdapter adapter(bare,
                      {.r = 2, .lora_alpha = 1e-8, .init_lora_weights = peft::InitLora::Random}, 1);
  const MergedTensors merged(base, adapter);
  for (const auto& layer : adapter.layers()) merged.read(layer->path() + ".weight", at::kBFloat16);
  CHECK(merged.report().delta_norm > 0.0);
  CHECK(merged.report().applied_share() == 0.0);
}

TEST_CASE("a base without an adapted weight is refused by tensor", "[peft]") {
  ToyModel model(at::kFloat), bare;
  const auto base = std::make_shared<InMemory>(model);
  base->erase("model.layers.1.k_proj.weight");
  const LoraAdapter adapter(bare, {.r = 2}, 1);
  CHECK_THROWS_WITH(MergedTensors(base, adapter), Catch::Contains("model.layers.1.k_proj.weight"));
}
