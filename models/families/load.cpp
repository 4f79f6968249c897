#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <map>

#include "models/families/causal_lm.hpp"
#include "models/families/deepseek_v2.hpp"
#include "models/families/deepseek_v3.hpp"
#include "models/families/llama.hpp"
#include "models/families/mixtral.hpp"
#include "models/families/olmoe.hpp"
#include "models/families/qwen2.hpp"
#include "models/families/qwen2_moe.hpp"
#include "models/families/qwen3.hpp"
#include "models/families/qwen3_moe.hpp"

namespace tailor::models {
namespace {

using Maker = std::unique_ptr<CausalLM> (*)(configs::Section);

const std::map<std::string, Maker>& families() {
  static const std::map<std::string, Maker> all{{"deepseek_v2", deepseek_v2::make},
                                                {"deepseek_v3", deepseek_v3::make},
                                                {"kimi_k2", deepseek_v3::make},
                                                {"llama", llama::make},
                                                {"mixtral", mixtral::make},
                                                {"olmoe", olmoe::make},
                                                {"qwen2", qwen2::make},
                                                {"qwen2_moe", qwen2_moe::make},
                                                {"qwen3", qwen3::make},
                                                {"qwen3_moe", qwen3_moe::make}};
  return all;
}

/// Every parameter must be there with its shape before any is read: all problems at once.
void check_tensors(const std::vector<NamedParameter>& parameters, const Pretrained& pretrained) {
  std::map<std::string, const TensorEntry*> entries;
  for (const auto& entry : pretrained.tensors->entries()) entries[entry.name] = &entry;
  std::string problems;
  std::size_t count = 0;
  const auto note = [&](const std::string& text) {
    if (++count <= 10)
      problems += (problems.empty() ? "" : "\n") + pretrained.path.string() + ": " + text;
  };
  for (const auto& parameter : parameters) {
    const auto found = entries.find(parameter.name);
    if (found == entries.end()) {
      note("tensor " + parameter.name + " is missing; expected shape " +
           shape_text(parameter.shape));
    } else if (found->second->shape != parameter.shape) {
      note("tensor " + parameter.name + ": expected shape " + shape_text(parameter.shape) + " by " +
           pretrained.config_file + ", found " + shape_text(found->second->shape));
    }
  }
  if (count > 10) problems += "\n... and " + std::to_string(count - 10) + " more";
  if (count > 0) throw FileError(problems);
}

/// What is held here of the parameter.
at::Tensor read_held(const TensorSource& tensors, const NamedParameter& parameter,
                     at::ScalarType dtype) {
  const auto& slice = parameter.slice;
  if (!slice) return tensors.read(parameter.name, dtype);
  return tensors.read_slice(parameter.name, dtype, slice->dim, slice->begin, slice->length);
}

/// Rows of that.
at::Tensor read_rows(const TensorSource& tensors, const NamedParameter& parameter,
                     at::ScalarType dtype, std::int64_t begin, std::int64_t length) {
  const auto& slice = parameter.slice;
  if (length == 0) {  // a source may read all of a tensor for a part of it
    auto shape = held_shape(parameter);
    shape.front() = 0;
    return at::empty(shape, dtype);
  }
  const bool other_dim = slice && slice->dim != 0;
  if (slice && !other_dim) begin += slice->begin;
  if (!other_dim) return tensors.read_slice(parameter.name, dtype, 0, begin, length);
  return tensors.read_part(parameter.name, dtype,
                           {{.dim = 0, .begin = begin, .length = length},
                            {.dim = slice->dim, .begin = slice->begin, .length = slice->length}});
}

}  // namespace

std::unique_ptr<CausalLM> make_causal_lm(const std::string& config_json, const std::string& file) {
  const auto document = configs::Document::json(config_json, file);
  auto root = document.root();
  const auto model_type = root.text("model_type");
  const auto family = families().find(model_type);
  if (family == families().end()) {
    std::string known;
    for (const auto& [name, maker] : families()) known += (known.empty() ? "" : ", ") + name;
    root.reject("model_type", "expected a supported family (" + known + ")");
    document.check();
  }
  auto model = family->second(root);
  document.check();
  return model;
}

void CausalLM::keep_stage(const Stage& /*stage*/) {
  TORCH_CHECK_VALUE(false, shape().model_type, ": cannot be cut into stages");
}

std::unique_ptr<CausalLM> load_causal_lm(const Pretrained& pretrained, at::ScalarType dtype,
                                         kernels::Arithmetic arithmetic) {
  auto model = make_causal_lm(pretrained.config_json, pretrained.config_file);
  load_parameters(*model, pretrained, dtype, arithmetic);
  return model;
}

void load_parameters(CausalLM& model, const Pretrained& pretrained, at::ScalarType dtype,
                     kernels::Arithmetic arithmetic, const TakeParameter& take, at::Device device) {
  const auto parameters = model.parameters();
  check_tensors(parameters, pretrained);
  for (const auto& parameter : parameters) {
    const auto read_as = parameter.dtype.value_or(dtype);
    const ReadRows rows = [&](std::int64_t begin, std::int64_t length) {
      return read_rows(*pretrained.tensors, parameter, read_as, begin, length).to(device);
    };
    if (take && take(parameter, rows)) continue;
    *parameter.value = read_held(*pretrained.tensors, parameter, read_as).to(device);
  }
  model.finish_loading(arithmetic);
}

}  // namespace tailor::models
