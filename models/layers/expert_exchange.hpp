#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace tailor::models {

/// Tokens as rows sorted by expert, every token once for each expert that it goes to. Mostly in one
/// part; in several, one behind the other, where each is to be computed by itself.
struct DispatchedRows {
  at::Tensor x_MD;  // rows of the experts held here, of all parts
  /// Of a part with P rows {0, ..., P}, one range an expert held here.
  std::vector<std::vector<std::int64_t>> parts;
  std::shared_ptr<const void> plan;  // what combine() needs of dispatch()
};

/// Brings the rows of tokens to their experts and the answers back: by a permutation where all
/// experts are here, by an all-to-all exchange where ranks hold parts. Both directions are
/// differentiable. The order of rows is stable: by expert, then by (source rank, token), and the
/// answers of a token are added up in float32 in the order of its slots, so that the outcome does
/// not depend on how experts are spread. Where autograd does not record, rows of several ranks that
/// are more than one kernels::matvec() takes come in parts, by source rank: a product's bits depend
/// on its rows then, and what a rank samples shall not depend on the others' prompts.
class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;
  /// x (T, D), ids (T, K) int64, distinct in a row; -1 for a slot that goes nowhere, whose answer
  /// is zeros.
  virtual DispatchedRows dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK) = 0;
  /// y_t = sum_j weights[t, j] out of expert ids[t, j]: out (M, D), weights (T, K) float32 ->
  /// (T, D) in out's dtype.
  virtual at::Tensor combine(const at::Tensor& out_MD, const at::Tensor& weights_TK,
                             const DispatchedRows& rows) = 0;
};

/// The slots (t, k) in a stable order by expert: row row_of[t, k] is that of slot k of token t, -1
/// for one that goes nowhere, and the rows of expert e are row_offsets[e] up to row_offsets[e + 1].
struct SortedSlots {
  at::Tensor row_of_TK;                   // int64
  std::vector<std::int64_t> row_offsets;  // {0, ..., M}, num_experts + 1 entries
};
/// Counting sort. Throws ValueError for an id outside [-1, num_experts). Outside host memory it is
/// the next one, which waits for the counts.
SortedSlots sort_by_expert(const at::Tensor& ids_TK, std::int64_t num_experts);
/// The same from tensor operations, on any device.
SortedSlots sort_by_expert_plainly(const at::Tensor& ids_TK, std::int64_t num_experts);

/// (T, D) -> (M, D) and back with weights (T, K) float32: differentiable, and deterministic in
/// both directions (kernels/token_copies.hpp).
at::Tensor copy_tokens(const at::Tensor& x_TD, const SortedSlots& slots);
at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& weights_TK,
                      const SortedSlots& slots);

/// All experts are here.
std::shared_ptr<ExpertExchange> make_local_exchange(std::int64_t num_experts);

}  // namespace tailor::models
