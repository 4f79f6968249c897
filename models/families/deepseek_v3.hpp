#pragma once

#include <memory>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"

namespace tailor::models::deepseek_v3 {

/// DeepSeek-V3 (arXiv:2412.19437), and with it Moonlight and Kimi-K2: V2 with experts chosen by
/// sigmoid scores plus a correction bias, of the best groups.
std::unique_ptr<CausalLM> make(configs::Section config);

}  // namespace tailor::models::deepseek_v3
