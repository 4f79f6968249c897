#pragma once

#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"

namespace tailor::models {

/// Tensors of a checkpoint that no parameter of the whole `model` reads, in file order: the
/// configuration is not the file's. Left out is what is known to be of no use: a head that is tied
/// to the embedding, tables of rotary frequencies, and DeepSeek's layers behind the last one, which
/// predict further tokens.
std::vector<std::string> unused_tensors(CausalLM& model, const Pretrained& pretrained);

}  // namespace tailor::models
