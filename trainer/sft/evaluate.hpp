#pragma once

#include <functional>
#include <optional>

#include "distributed/mesh.hpp"
#include "trainer/data/dataset.hpp"
#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

/// Loss and hits over every supervised token of a data set, without autograd and without dropout;
/// whichever adapter is seated and enabled takes part. Ranks of `mesh` that see other data take
/// turns at the micro-batches; every rank gets the sums. `goes_on` gets documents done and all, and
/// breaks off with false, which must be the same on all ranks: then there are no sums.
std::optional<LossSums> evaluate(
    models::CausalLM& model, const Dataset& dataset, const distributed::Mesh& mesh,
    const VocabularyPart& vocabulary,
    const std::function<bool(std::int64_t done, std::int64_t all)>& goes_on);
/// On one rank.
LossSums evaluate(models::CausalLM& model, const Dataset& dataset,
                  const std::function<void(std::int64_t done, std::int64_t all)>& progress = {});

double mean_loss(const LossSums& sums);       // nats a supervised token
double perplexity(const LossSums& sums);      // exp(mean_loss)
double token_accuracy(const LossSums& sums);  // share of supervised tokens that argmax hits

}  // namespace tailor::trainer
