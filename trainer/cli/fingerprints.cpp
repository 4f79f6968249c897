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

}  // namespace

std::map<std::string, std::string> fingerprints(const models::Pretrained& pretrained,
                                                const JobTask& task, const Precision& precision,
                                                const std::string& layout) {
  return {{kModelFingerprint, of_model(pretrained)}, {kDataFingerprint, task.train_fingerprint()},
          {"eval data", task.eval_fingerprint()},    {"precision", precision.describe()},
          {kStepFingerprint, task.step_text()},      {kLayoutFingerprint, layout}};
}

}  // namespace tailor::trainer::cli
