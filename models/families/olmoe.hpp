#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::olmoe {

/// OLMoE (Muennighoff et al. 2024, arXiv:2409.02060): every feed-forward is sparse, and one RMSNorm
/// runs over all heads of q, one over all of k. Notes ConfigErrors in the document of `config`;
/// check() it before use.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::olmoe
