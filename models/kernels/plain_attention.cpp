// T tokens, R queries of a block, C tokens that it sees; N query heads in K groups of G, one a
// key/value head; H width of a query's or key's head, V of a value's.
#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "models/kernels/plain.hpp"

namespace tailor::models::kernels::plain {
namespace {

constexpr std::int64_t kBlockRows = 512;

struct Range {
  std::int64_t begin = 0, length = 0;
};

/// Queries of one document, and what they see: a prefix, and the document up to their last one.
struct Block {
  Range queries, prefix, own;
};

template <class Work>
void each_block(const Documents& documents, const Work& work) {
  const auto& offsets = documents.offsets;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
    Range prefix;
    if (!documents.prefix_of.empty() && documents.prefix_of[d] >= 0) {
      const auto p = static_cast<std::size_t>(documents.prefix_of[d]);
      prefix = {offsets[p], offsets[p + 1] - offsets[p]};
    }
    for (auto begin = offsets[d]; begin < offsets[d + 1]; begin += kBlockRows) {
      const auto rows = std::min(kBlockRows, offsets[d + 1] - begin);
      work(Block{{begin, rows}, prefix, {offsets[d], begin + rows - offsets[d]}});
    }
  }
}

at::Tensor rows_of(const at::Tensor& x, const Range& range) {
  return x.narrow(0, range.begin, range.length);
}

/// (C, K, H) -> (K, C, H) in `dtype`.
at::Tensor seen(const at::Tensor& x_TKH, const Block& block, at::ScalarType dtype) {
  const auto own = rows_of(x_TKH, block.own);
  const auto x_CKH = block.prefix.length > 0 ? at::cat({rows_of(x_TKH, block.prefix), own}) : own;
  return x_CKH.to(dtype).transpose(0, 1);
}

/// (R, N, H) of the block's rows -> (K, G R, H): the heads of a group below each other.
at::Tensor by_group(const at::Tensor& x_TNH, const Range& rows, std::int64_t groups,
                    at::ScalarType dtype) {
  return rows_of(x_TNH, rows)
      .to(dtype)
      .unflatten(1, {groups, -1})
      .permute({1, 2, 0, 3})
      .flatten(1, 2);
}

/// Back: (K, G R, H) -> (R, N, H).
at::Tensor by_row(const at::Tensor& x_KSH, std::int64_t rows) {
  return x_KSH.unflatten(1, {-1, rows}).permute({2, 0, 1, 3}).flatten(1, 2);
}

/// scale q k^T, -infinity where a query does not see: (K, G, R, C).
at::Tensor scores(const at::Tensor& q_KSH, const at::Tensor& k_KCH, const Block& block,
                  double scale) {
  const auto rows = block.queries.length, columns = k_KCH.size(1);
  const auto hidden_RC =
      at::ones({rows, columns}, q_KSH.options().dtype(at::kBool)).triu(columns - rows + 1);
  auto scores_KGRC = at::bmm(q_KSH, k_KCH.transpose(1, 2)).mul_(scale).unflatten(1, {-1, rows});
  return scores_KGRC.masked_fill_(hidden_RC, -std::numeric_limits<double>::infinity());
}

/// Adds what tokens seen by a block are due, (K, C, H), to where they stand.
void add_to_seen(at::Tensor& sum_TKH, const at::Tensor& part_KCH, const Block& block) {
  const auto part_CKH = part_KCH.transpose(0, 1);
  const auto prefix = block.prefix.length;
  if (prefix > 0) rows_of(sum_TKH, block.prefix).add_(part_CKH.narrow(0, 0, prefix));
  rows_of(sum_TKH, block.own).add_(part_CKH.narrow(0, prefix, block.own.length));
}

}  // namespace

BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, const Documents& documents, double scale) {
  const auto exact = c10::promoteTypes(q_TNH.scalar_type(), at::kFloat);
  const auto groups = k_TKH.size(1);
  BlockAttention out{at::empty({q_TNH.size(0), q_TNH.size(1), v_TKV.size(2)}, q_TNH.options()),
                     at::empty({q_TNH.size(0), q_TNH.size(1)}, q_TNH.options().dtype(exact))};
  each_block(documents, [&](const Block& block) {
    const auto& rows = block.queries;
    auto p_KGRC =
        scores(by_group(q_TNH, rows, groups, exact), seen(k_TKH, block, exact), block, scale);
    const auto top_KGR1 = p_KGRC.amax(-1, /*keepdim=*/true);
    p_KGRC.sub_(top_KGR1).exp_();
    const auto sum_KGR1 = p_KGRC.sum(-1, /*keepdim=*/true);
    const auto log_sum_KGR = (sum_KGR1.log() + top_KGR1).squeeze(-1);
    p_KGRC.div_(sum_KGR1);
    const auto out_KSV = at::bmm(p_KGRC.flatten(1, 2), seen(v_TKV, block, exact));
    rows_of(out.out_TNV, rows).copy_(by_row(out_KSV, rows.length));
    rows_of(out.log_sum_TN, rows).copy_(log_sum_KGR.permute({2, 0, 1}).flatten(1));
  });
  return out;
}

AttentionGradients block_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            const Documents& documents, double scale) {
  const auto exact = c10::promoteTypes(q_TNH.scalar_type(), at::kFloat);
  const auto groups = k_TKH.size(1);
  auto dq_TNH = at::empty(q_TNH.sizes(), q_TNH.options());
  auto dk_TKH = at::zeros(k_TKH.sizes(), k_TKH.options().dtype(exact));
  auto dv_TKV = at::zeros(v_TKV.sizes(), v_TKV.options().dtype(exact));
  each_block(documents, [&](const Block& block) {
    const auto& rows = block.queries;
    const auto grouped = [&](const at::Tensor& x) { return by_group(x, rows, groups, exact); };
    const auto q_KSH = grouped(q_TNH), dout_KSV = grouped(dout_TNV);
    const auto k_KCH = seen(k_TKH, block, exact), v_KCV = seen(v_TKV, block, exact);
    const auto log_sum_KS1 = grouped(forward.log_sum_TN.unsqueeze(-1));
    const auto p_KSC = scores(q_KSH, k_KCH, block, scale).flatten(1, 2).sub_(log_sum_KS1).exp_();
    const auto D_KS1 = (dout_KSV * grouped(forward.out_TNV)).sum(-1, /*keepdim=*/true);
    const auto ds_KSC =
        at::bmm(dout_KSV, v_KCV.transpose(1, 2)).sub_(D_KS1).mul_(p_KSC).mul_(scale);
    rows_of(dq_TNH, rows).copy_(by_row(at::bmm(ds_KSC, k_KCH), rows.length));
    add_to_seen(dk_TKH, at::bmm(ds_KSC.transpose(1, 2), q_KSH), block);
    add_to_seen(dv_TKV, at::bmm(p_KSC.transpose(1, 2), dout_KSV), block);
  });
  return {dq_TNH, dk_TKH.to(k_TKH.scalar_type()), dv_TKV.to(v_TKV.scalar_type())};
}

}  // namespace tailor::models::kernels::plain
