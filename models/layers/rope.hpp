#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "configs/reader.hpp"

namespace tailor::models {

/// Frequencies of the rotary embedding as config.json describes them.
struct RopeConfig {
  std::int64_t head_dim = 0;
  double theta = 10000.0;
  enum class Scaling { None, Linear, Llama3, Yarn } scaling = Scaling::None;
  double factor = 1.0;
  // Llama 3.1's rule (transformers' "llama3"): wavelengths above original / low_freq_factor are
  // slowed by `factor`, those below original / high_freq_factor stay, those between are blended.
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  double original_max_position_embeddings = 8192;
  // YaRN (Peng et al. 2023, arXiv:2309.00071): pairs that turn more than beta_fast times within the
  // original length stay, those below beta_slow turns are slowed by `factor`, those between are
  // blended (section 3.2); `truncate` rounds the two bounds outwards to whole pairs.
  double beta_fast = 32.0, beta_slow = 1.0;
  bool truncate = true;
  double attention_factor = 1.0;  // times cos and sin: the temperature of section 3.4
  double mscale_all_dim = 0.0;    // DeepSeek's part of that temperature; 0: none
};

/// Reads rope_theta and rope_scaling (or rope_parameters, as transformers 5 writes them) of a
/// config.json. A kind of scaling that is not known here is refused by name.
RopeConfig read_rope(configs::Section& config, std::int64_t head_dim);

/// Inverse frequencies, (H/2) float32.
at::Tensor rope_frequencies(const RopeConfig& config);

/// cos and sin of position x frequency times `attention_factor`, (T, H/2) float32: made once a
/// forward, used by all layers.
struct RopeAngles {
  at::Tensor cos_TF, sin_TF;
};
RopeAngles rope_angles(const at::Tensor& positions_T, const at::Tensor& frequency_F,
                       double attention_factor = 1.0);

/// What DeepSeek's models multiply their softmax scale by under YaRN: (0.1 mscale_all_dim ln factor
/// + 1)^2, so that the positionless part of the scores has the temperature too.
double softmax_scale_factor(const RopeConfig& config);

}  // namespace tailor::models
