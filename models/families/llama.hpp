#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::llama {

/// Llama 2 and 3 (Touvron et al. 2023, arXiv:2307.09288; arXiv:2407.21783), SmolLM2 and others that
/// name `model_type: llama`. Notes ConfigErrors in the document of `config`; check() it before use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::llama
