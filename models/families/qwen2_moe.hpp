#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::qwen2_moe {

/// Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671): beside the chosen experts every token takes a
/// shared one times sigmoid(x g). Notes ConfigErrors in the document of `config`; check() it before
/// use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::qwen2_moe
