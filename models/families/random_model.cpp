#include "models/families/random_model.hpp"

#include <ATen/ops/full.h>

#include <cmath>
#include <functional>
#include <memory>
#include <numeric>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"
#include "models/files/made_tensors.hpp"
#include "models/files/random_tensor.hpp"
#include "models/kernels/random.hpp"
#include "models/text/byte_tokenizer.hpp"

namespace tailor::models {
namespace {

double read_deviation(const std::string& config_json, const std::string& config_file,
                      std::int64_t num_tokens) {
  const auto document = configs::Document::json(config_json, config_file);
  auto root = document.root();
  const auto deviation = root.number("initializer_range", 0.02, {.min = 0.0});
  if (root.integer("vocab_size") < num_tokens)
    root.reject("vocab_size",
                "expected at least the byte tokenizer's " + std::to_string(num_tokens));
  document.check();
  return deviation;
}

/// Counted as floating-point numbers: sizes that are allowed one by one overflow together.
void check_size(CausalLM& model, const std::string& config_file) {
  constexpr double kMost = 1e13;
  double count = 0;
  for (const auto& parameter : model.parameters())
    count +=
        std::accumulate(parameter.shape.begin(), parameter.shape.end(), 1.0, std::multiplies<>());
  if (count > kMost)
    throw configs::ConfigError(config_file + ": describes " +
                               configs::number_text(std::round(count / 1e12)) +
                               "e12 parameters, expected at most 1e13");
}

MadeTensors::Maker maker_of(const NamedParameter& parameter, double deviation, std::uint64_t seed) {
  const auto& name = parameter.name;
  const auto& shape = parameter.shape;
  if (shape.size() > 1) {
    const RandomStream random{seed, kernels::stream_of("random model " + name)};
    return [shape, deviation, random](at::ScalarType dtype) {
      return normal_tensor(shape, deviation, random).to(dtype);
    };
  }
  const auto value = name.ends_with("bias") ? 0.0 : 1.0;
  return [shape, value](at::ScalarType dtype) { return at::full(shape, value, dtype); };
}

}  // namespace

Pretrained random_pretrained(const std::string& config_json, const std::string& config_file,
                             std::uint64_t seed) {
  const auto model = make_causal_lm(config_json, config_file);
  Pretrained out;
  out.path = config_file;
  out.config_json = config_json;
  out.config_file = config_file;
  out.tokenizer = text::make_tokenizer(text::byte_tokenizer());
  out.chat_template = text::kChatMlTemplate;
  const auto& spec = out.tokenizer->spec();
  out.generation = {
      .eos_token_id = {*spec.eos_id}, .bos_token_id = spec.bos_id, .pad_token_id = spec.pad_id};
  check_size(*model, config_file);
  const auto deviation = read_deviation(config_json, config_file, out.tokenizer->size());
  auto tensors = std::make_shared<MadeTensors>();
  for (const auto& parameter : model->parameters()) {
    const auto& shape = parameter.shape;
    const auto count =
        std::accumulate(shape.begin(), shape.end(), std::int64_t{4}, std::multiplies<>());
    tensors->add({parameter.name, "F32", shape, count}, maker_of(parameter, deviation, seed));
  }
  out.tensors = tensors;
  return out;
}

}  // namespace tailor::models
