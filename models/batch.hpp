#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "models/expert_capacity.hpp"

namespace tailor::models {

class KvCache;

/// What the routers of sparse layers chose in one forward: a value that a caller passes in to have
/// it filled.
struct RoutingTrace {
  struct Layer {
    at::Tensor logits_TE;  // float32, part of the graph where the router or its input is
    at::Tensor ids_TK;     // int64
    at::Tensor kept_TK;    // the same with -1 where an expert was full; ids_TK without a capacity
  };
  std::map<std::int64_t, Layer> layers;  // by the layer's number
};

/// Forward's argument: tokens of several documents, one after the other, without padding.
/// Documents do not see each other.
struct Batch {
  at::Tensor ids_T;                            // int64
  at::Tensor positions_T;                      // int64; restarts in every document
  std::vector<std::int64_t> document_offsets;  // {0, ..., T}: document d is [d] up to [d + 1]
  /// Shared prefixes, as in several completions of one prompt: document d also sees all tokens of
  /// the earlier document prefix_of[d], and its positions go on behind them; -1 where it stands
  /// alone, as a prefix itself does. Empty: every document stands alone.
  std::vector<std::int64_t> prefix_of;

  /// Decoding: document d continues the sequence in slot cache_slots[d], whose cached length is the
  /// position of the document's first token. Keys and values are appended; the tokens see them all.
  KvCache* cache = nullptr;
  std::vector<std::int64_t> cache_slots;

  RoutingTrace* trace = nullptr;  // absent: routes are not recorded
  ExpertCapacity expert_capacity;

  std::int64_t num_tokens() const { return document_offsets.empty() ? 0 : document_offsets.back(); }
  std::int64_t num_documents() const {
    return static_cast<std::int64_t>(document_offsets.size()) - 1;
  }
};

/// Packs documents of token ids; positions count from 0 in each.
Batch pack(const std::vector<std::vector<std::int64_t>>& documents);

}  // namespace tailor::models
