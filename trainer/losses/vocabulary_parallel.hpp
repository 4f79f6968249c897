#pragma once

#include "models/kernels/token_loss.hpp"
#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

/// token_loss_() where every rank of vocabulary.group holds the logits (C, V / size) of its part of
/// the vocabulary and all hold the same targets (C), ids of the whole: the ranks agree on maximum,
/// sum and target logit of each row, 3 C numbers, instead of exchanging logits. Losses are the same
/// on all ranks; where `gradient` is asked for each rank's part of it stands in place of its
/// logits.
models::kernels::TokenLosses vocabulary_parallel_loss_(at::Tensor& logits_CV,
                                                       const at::Tensor& target_C, bool gradient,
                                                       const VocabularyPart& vocabulary);

}  // namespace tailor::trainer
