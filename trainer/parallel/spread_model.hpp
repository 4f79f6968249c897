#pragma once

#include "distributed/mesh.hpp"
#include "models/families/causal_lm.hpp"
#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

/// Makes a model that is neither loaded nor adapted one of the parts that the ranks of `mesh` hold:
/// matrices and vocabulary cut over tp, experts divided over ep, layers over pp;
/// frozen matrices of layers divided over dp_shard, for which the answer, else empty, is what a
/// loader must be given. Throws configs::ConfigError in the words of the setting
/// (tensor_parallel_size, ...) where the model cannot be cut so.
models::TakeParameter spread_model(models::CausalLM& model, const distributed::Mesh& mesh);

/// The part of the vocabulary that this rank's head holds.
VocabularyPart vocabulary_part(models::CausalLM& model, const distributed::Mesh& mesh);

}  // namespace tailor::trainer
