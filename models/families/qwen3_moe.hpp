#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::qwen3_moe {

/// Qwen3, sparse (arXiv:2505.09388): Qwen3's attention, no shared expert. Notes ConfigErrors in the
/// document of `config`; check() it before use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::qwen3_moe
