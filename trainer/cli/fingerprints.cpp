#include "trainer/cli/fingerprints.hpp"

#include "trainer/checkpoint/checksum.hpp"

namespace tailor::trainer::cli {
namespace {

/// Tells one base model from another without reading all of it: its configuration, the table of its
/// tensors, and the values of the vectors and of the smallest matrix. A base that differs in other
/// matrices alone, as one into which an adapter of few modules was merged, is not told apart.
std::string of_model(const models::Pretrained& pretrained) {
  Checksum sum;
  sum.add(pretrained.config_json);
  const models::TensorEntry* smallest = nullptr;
  for (const auto& entry : pretrained.tensors->entries()) {
    sum.add(entry.name + " " + entry.dtype);
    for (const auto extent : entry.shape) sum.add(&extent, sizeof extent);
    const bool is_matrix = entry.shape.size() > 1;
    if (is_matrix && (smallest == nullptr || entry.num_bytes < smallest->num_bytes))
      smallest = &entry;
  }
  for (const auto& entry : pretrained.tensors->entries()) {
    if (entry.shape.size() > 1 && &entry != smallest) continue;
    const auto values = pretrained.tensors->read(entry.name, at::kFloat);
    sum.add(values.const_data_ptr(), values.nbytes());
  }
  return sum.hex();
}

std::string of_data(const Dataset& dataset) {
  Checksum sum;
  for (const auto& example : dataset.examples) {
    sum.add(example.ids.data(), example.ids.size() * sizeof(std::int64_t));
    sum.add(example.labels.data(), example.labels.size() * sizeof(std::int64_t));
  }
  return sum.hex();
}

}  // namespace

std::map<std::string, std::string> fingerprints(const models::Pretrained& pretrained,
                                                const Dataset& train, const Dataset& eval,
                                                const Precision& precision,
                                                std::int64_t rows_in_step,
                                                const std::string& layout) {
  return {{kModelFingerprint, of_model(pretrained)},
          {kDataFingerprint, of_data(train)},
          {"eval data", of_data(eval)},
          {"precision", precision.describe()},
          {kStepFingerprint, std::to_string(rows_in_step) + " rows"},
          {kLayoutFingerprint, layout}};
}

}  // namespace tailor::trainer::cli
