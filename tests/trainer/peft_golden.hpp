#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/files/safetensors.hpp"
#include "peft/adapter_file.hpp"
#include "trainer/losses/cross_entropy.hpp"

namespace tailor::tests {

using models::kernels::Arithmetic;

inline const std::filesystem::path kGolden = TAILOR_GOLDEN;

inline std::unique_ptr<models::CausalLM> load_tiny(const std::string& name) {
  return models::load_causal_lm(models::open_pretrained(kGolden / name), at::kFloat,
                                Arithmetic::Float32);
}

/// A tiny model with the adapter in tests/golden/<kind>/<name>, and what PEFT computed.
struct PeftGolden {
  PeftGolden(const std::string& kind, const std::string& name)
      : golden(models::open_safetensors(kGolden / kind / name / "golden.safetensors")),
        model(load_tiny("tiny_" + name)) {
    const auto files = peft::read_adapter(kGolden / kind / name, model->shape().model_type);
    adapter = std::make_unique<peft::LoraAdapter>(*model, files.config, /*seed=*/0);
    peft::load_factors(files, *adapter);
    const auto ids = golden->read("input_ids", at::kLong);
    const auto labels = golden->read("labels", at::kLong);
    const auto offsets = golden->read("document_offsets", at::kLong);
    for (std::int64_t d = 0; d + 1 < offsets.numel(); ++d) {
      trainer::Example example;
      for (auto t = offsets[d].item<std::int64_t>(); t < offsets[d + 1].item<std::int64_t>(); ++t) {
        example.ids.push_back(ids[t].item<std::int64_t>());
        example.labels.push_back(labels[t].item<std::int64_t>());
      }
      documents.push_back(std::move(example));
    }
    std::vector<const trainer::Example*> rows;
    for (const auto& document : documents) rows.push_back(&document);
    batch = trainer::make_batch(rows);
  }

  /// The largest difference of a factor's tensor from `kind`.<key> of the golden file.
  double largest_difference(const std::string& kind,
                            const std::function<at::Tensor(const at::Tensor&)>& of) const {
    double largest = 0.0;
    each_pair(kind, of, [&](const at::Tensor& found, const at::Tensor& expected) {
      largest = std::max(largest, (found - expected).abs().max().item<double>());
    });
    return largest;
  }

  /// The same over the largest entry of the golden tensor; experts of a projection are one tensor.
  double largest_relative_difference(const std::string& kind,
                                     const std::function<at::Tensor(const at::Tensor&)>& of) const {
    double largest = 0.0;
    each_pair(kind, of, [&](const at::Tensor& found, const at::Tensor& expected) {
      const auto difference = (found - expected).abs().max() / expected.abs().max();
      largest = std::max(largest, difference.item<double>());
    });
    return largest;
  }

  /// compare(of(a factor), `kind`.<its keys> of the golden file, those of experts stacked).
  void each_pair(const std::string& kind, const std::function<at::Tensor(const at::Tensor&)>& of,
                 const std::function<void(const at::Tensor&, const at::Tensor&)>& compare) const {
    for (const auto& trainable : adapter->trainables()) {
      std::vector<at::Tensor> expected;
      for (const auto& key : trainable.keys)
        expected.push_back(golden->read(kind + '.' + key, at::kFloat));
      const bool single = trainable.kind == peft::Trainable::Kind::Single;
      compare(of(trainable.value), single ? expected.front() : at::stack(expected));
    }
  }

  at::Tensor mean_loss() const {
    const auto hidden_TD = model->hidden_states(batch);
    const auto summed = trainer::summed_cross_entropy(*model, hidden_TD, batch.targets_T);
    return summed.loss / static_cast<double>(batch.num_supervised);
  }

  std::shared_ptr<const models::SafetensorsFile> golden;
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;
  std::vector<trainer::Example> documents;
  trainer::LabelledBatch batch;
};

}  // namespace tailor::tests
