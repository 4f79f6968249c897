#pragma once

#include <functional>

#include "distributed/mesh.hpp"
#include "models/families/causal_lm.hpp"
#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

/// What a loader tells of each parameter that it has read; may be empty.
using LoadedParameter = std::function<void(const models::NamedParameter&)>;

/// Makes a model that is neither loaded nor adapted one of the parts that the ranks of `mesh` hold:
/// matrices and vocabulary cut over tp, experts divided over ep, layers over pp;
/// frozen matrices of layers divided over dp_shard, as the loader tells the answer. Throws
/// configs::ConfigError in the words of the setting (tensor_parallel_size, ...) where the model
/// cannot be cut so.
LoadedParameter spread_model(models::CausalLM& model, const distributed::Mesh& mesh);

/// The part of the vocabulary that this rank's head holds.
VocabularyPart vocabulary_part(models::CausalLM& model, const distributed::Mesh& mesh);

}  // namespace tailor::trainer
