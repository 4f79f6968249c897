#include "models/layers/rope.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sin.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tailor::models {
namespace {

/// What q and k are each multiplied by for a context that is `factor` times longer
/// (arXiv:2309.00071, section 3.4); 1 where it is not.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void read_yarn(configs::Section& section, RopeConfig& rope) {
  const configs::Range positive{.min = 0.0, .open_min = true};
  rope.scaling = RopeConfig::Scaling::Yarn;
  rope.factor = section.number("factor", {}, positive);
  rope.original_max_position_embeddings =
      section.number("original_max_position_embeddings", {}, {.min = 1.0});
  rope.beta_fast = section.number("beta_fast", rope.beta_fast, positive);
  rope.beta_slow = section.number("beta_slow", rope.beta_slow, positive);
  if (rope.beta_fast < rope.beta_slow)
    section.reject("beta_fast", "expected a number not below beta_slow");
  rope.truncate = section.boolean("truncate", true);
  const auto mscale = section.number("mscale", 0.0, {.min = 0.0});
  rope.mscale_all_dim = section.number("mscale_all_dim", 0.0, {.min = 0.0});
  rope.attention_factor =
      mscale > 0.0 && rope.mscale_all_dim > 0.0
          ? yarn_mscale(rope.factor, mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
          : yarn_mscale(rope.factor, 1.0);
  rope.attention_factor = section.number("attention_factor", rope.attention_factor, positive);
}

void read_scaling(configs::Section section, RopeConfig& rope) {
  section.ignore(section.has("rope_type") ? "type" : "rope_type");  // the older word is "type"
  const auto type = section.choice(section.has("rope_type") ? "rope_type" : "type",
                                   {"default", "linear", "llama3", "yarn"}, "default");
  rope.theta = section.number("rope_theta", rope.theta, {.min = 1.0});
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::Linear;
    rope.factor = section.number("factor", {}, {.min = 0.0, .open_min = true});
  } else if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::Llama3;
    rope.factor = section.number("factor", {}, {.min = 0.0, .open_min = true});
    rope.low_freq_factor = section.number("low_freq_factor", {}, {.min = 0.0, .open_min = true});
    rope.high_freq_factor = section.number("high_freq_factor", {}, {.min = 0.0, .open_min = true});
    rope.original_max_position_embeddings =
        section.number("original_max_position_embeddings", {}, {.min = 1.0});
    if (rope.high_freq_factor <= rope.low_freq_factor)
      section.reject("high_freq_factor", "expected a number above low_freq_factor");
  } else if (type == "yarn") {
    read_yarn(section, rope);
  }
  section.finish();
}

/// Llama 3.1's frequency for a plain one.
double llama3_frequency(const RopeConfig& config, double f) {
  const auto wavelength = 2.0 * std::numbers::pi / f;
  const auto original = config.original_max_position_embeddings;
  const auto low = original / config.low_freq_factor, high = original / config.high_freq_factor;
  if (wavelength > low) return f / config.factor;
  if (wavelength <= high) return f;
  const auto smooth = (original / wavelength - config.low_freq_factor) /
                      (config.high_freq_factor - config.low_freq_factor);
  return (1.0 - smooth) * f / config.factor + smooth * f;
}

/// The pair of dimensions, as a real number, that turns `turns` times within the original length.
double yarn_pair(const RopeConfig& config, double turns) {
  return static_cast<double>(config.head_dim) *
         std::log(config.original_max_position_embeddings / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(config.theta));
}

/// YaRN's frequency of pair `i` for a plain one.
double yarn_frequency(const RopeConfig& config, double f, std::int64_t i) {
  auto low = yarn_pair(config, config.beta_fast), high = yarn_pair(config, config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim - 1));
  if (low == high) high += 0.001;  // published models have beta_fast = beta_slow: a step
  const auto slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return slowed * f / config.factor + (1.0 - slowed) * f;
}

}  // namespace

RopeConfig read_rope(configs::Section& config, std::int64_t head_dim) {
  RopeConfig rope{.head_dim = head_dim};
  rope.theta = config.number("rope_theta", rope.theta, {.min = 1.0});
  if (config.has("rope_parameters")) read_scaling(config.section("rope_parameters"), rope);
  if (config.has("rope_scaling")) {
    read_scaling(config.section("rope_scaling"), rope);
  } else {
    config.ignore("rope_scaling");
  }
  return rope;
}

at::Tensor rope_frequencies(const RopeConfig& config) {
  const auto half = config.head_dim / 2;
  auto out = at::empty({half}, at::kFloat);
  auto* frequency = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < half; ++i) {
    const auto exponent = static_cast<double>(2 * i) / static_cast<double>(config.head_dim);
    auto f = 1.0 / std::pow(config.theta, exponent);
    if (config.scaling == RopeConfig::Scaling::Linear) f /= config.factor;
    if (config.scaling == RopeConfig::Scaling::Llama3) f = llama3_frequency(config, f);
    if (config.scaling == RopeConfig::Scaling::Yarn) f = yarn_frequency(config, f, i);
    frequency[i] = static_cast<float>(f);
  }
  return out;
}

RopeAngles rope_angles(const at::Tensor& positions_T, const at::Tensor& frequency_F,
                       double attention_factor) {
  const auto angle_TF = positions_T.to(at::kFloat).unsqueeze(1) * frequency_F;
  if (attention_factor == 1.0) return {angle_TF.cos(), angle_TF.sin()};
  return {angle_TF.cos() * attention_factor, angle_TF.sin() * attention_factor};
}

double softmax_scale_factor(const RopeConfig& config) {
  if (config.scaling != RopeConfig::Scaling::Yarn || config.mscale_all_dim == 0.0) return 1.0;
  const auto mscale = yarn_mscale(config.factor, config.mscale_all_dim);
  return mscale * mscale;
}

}  // namespace tailor::models
