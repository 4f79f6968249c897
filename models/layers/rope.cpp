#include "models/layers/rope.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sin.h>

#include <cmath>
#include <numbers>

namespace tailor::models {
namespace {

void read_scaling(configs::Section section, RopeConfig& rope) {
  section.ignore(section.has("rope_type") ? "type" : "rope_type");  // the older word is "type"
  const auto type = section.choice(section.has("rope_type") ? "rope_type" : "type",
                                   {"default", "linear", "llama3"}, "default");
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
  }
  section.finish();
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
    if (config.scaling == RopeConfig::Scaling::Llama3) {
      const auto wavelength = 2.0 * std::numbers::pi / f;
      const auto original = config.original_max_position_embeddings;
      const auto low = original / config.low_freq_factor, high = original / config.high_freq_factor;
      if (wavelength > low) {
        f /= config.factor;
      } else if (wavelength > high) {
        const auto smooth = (original / wavelength - config.low_freq_factor) /
                            (config.high_freq_factor - config.low_freq_factor);
        f = (1.0 - smooth) * f / config.factor + smooth * f;
      }
    }
    frequency[i] = static_cast<float>(f);
  }
  return out;
}

RopeAngles rope_angles(const at::Tensor& positions_T, const at::Tensor& frequency_F) {
  const auto angle_TF = positions_T.to(at::kFloat).unsqueeze(1) * frequency_F;
  return {angle_TF.cos(), angle_TF.sin()};
}

}  // namespace tailor::models
