#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tailor::models {

/// A drawn router (E, D), changed so that it sends equally many of the tokens `x_TD` (float32) to
/// every expert when each token takes the `num_experts_per_tok` of the largest logits.
///
/// A random router is far from that: what a layer reads has a large part that is common to all
/// tokens, and the few experts whose rows point along it take most of them. So every row loses its
/// share of that part and all get the same spread over the tokens; what imbalance is left goes by
/// offsets of the logits, found as auxiliary-loss-free balancing finds its biases (Wang et al.
/// 2024, arXiv:2408.15664, algorithm 1). A router has no bias, so each offset is added to the row
/// along the direction whose product with a token is nearest to one (ridge regression). Logits keep
/// their mean spread. Needs at least two tokens, and leaves a router as it is where all are the
/// same; other tokens are balanced as far as they are alike.
at::Tensor balance_router(const at::Tensor& router_ED, const at::Tensor& x_TD,
                          std::int64_t num_experts_per_tok);

}  // namespace tailor::models
