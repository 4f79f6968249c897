#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::mixtral {

/// Mixtral (Jiang et al. 2024, arXiv:2401.04088): every feed-forward is sparse, softmax over the
/// chosen logits. Notes ConfigErrors in the document of `config`; check() it before use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::mixtral
