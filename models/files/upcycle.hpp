#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "models/files/pretrained.hpp"

namespace tailor::models {

/// What becomes of each feed-forward of a dense model.
struct UpcycleOptions {
  std::int64_t num_experts = 8, num_experts_per_tok = 2;
  std::int64_t split = 1;  // parts of each copy: so many times more experts, also a token
  double noise = 0.0;      // on experts, in standard deviations of the weights they begin with
  std::uint64_t seed = 0;
  /// What each layer's feed-forward reads of a text: (T, D) in order of the layers
  /// (models/families/feed_forward_inputs.hpp). Routers are balanced on it; empty: as drawn.
  std::vector<at::Tensor> router_inputs;
};

/// A dense model as a sparse mixture of experts (sparse upcycling, Komatsuzaki et al. 2022,
/// arXiv:2212.05055), to be written or loaded; a tensor is made when it is read. Every expert is a
/// copy of the dense feed-forward, the router is drawn from N(0, 0.02^2) and balanced on
/// router_inputs where these are given. The weights of the chosen experts sum to one, so without
/// noise the function is that of the dense model up to rounding.
///
/// With `split` N each copy is cut into N experts of 1/N of its width. They share one router row,
/// so they are chosen together, each with 1/N of the weight, and their down_proj is N times larger
/// (virtual groups, He et al. 2024, arXiv:2410.07524). Copies whose router logits tie, in 16 bits
/// say, may get their parts mixed up.
///
/// llama becomes mixtral, qwen3 qwen3_moe, and qwen2 qwen2_moe. The last adds a shared expert times
/// sigmoid(x g): here another copy with g = 0, so one half of it; routed experts give the other.
///
/// `dense` must be a model that its family accepts. Throws configs::ConfigError for options that
/// contradict each other or the model (one that has another number of layers than router_inputs
/// among them), FileError for a model without such a form (another family,
/// biases that mixtral lacks) and for one that lacks a weight.
Pretrained upcycled(const Pretrained& dense, const UpcycleOptions& options);

}  // namespace tailor::models
