#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::qwen2 {

/// Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama's layers with biases on q, k and v. Notes
/// ConfigErrors in the document of `config`; check() it before use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::qwen2
