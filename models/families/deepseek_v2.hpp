#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::deepseek_v2 {

/// DeepSeek-V2 (arXiv:2405.04434): latent attention, leading dense layers, routed experts chosen by
/// softmax, of all (`greedy`) or of the best groups (`group_limited_greedy`), and shared experts.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::deepseek_v2
