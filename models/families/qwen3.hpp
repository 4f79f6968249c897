#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::qwen3 {

/// Qwen3, dense (arXiv:2505.09388): an RMSNorm over each head of q and k before the rotation. Notes
/// ConfigErrors in the document of `config`; check() it before use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::qwen3
