// T tokens, N query heads, K key/value heads, H width of a query's or key's head, V of a value's;
// within one head of one document: i rows of a block of queries, n keys they see.
#include "models/kernels/block_attention.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "models/kernels/attention_rows.hpp"
#include "models/kernels/flash_attention.hpp"
#include "models/kernels/plain.hpp"
#include "models/kernels/small_gemm.hpp"
#include "models/kernels/tiled_gemm.hpp"

namespace tailor::models::kernels {
namespace {

// Large enough for the products' peak, small enough that what the diagonal wastes is little; tiles
// reach theirs with fewer rows (documents of 96 tokens: 0.8 of the time of 128 rows, of 512:
// equal).
constexpr std::int64_t kMaxBlockRows = 128;
std::int64_t block_rows() { return prefers_tiled_gemm() ? 64 : kMaxBlockRows; }

/// Where a document's rows begin, and those of the prefix that it sees whole.
struct Document {
  std::int64_t begin, length;
  std::int64_t prefix_begin = 0, prefix_length = 0;
};

/// A head of a group of documents, which one thread goes through in order.
struct Task {
  std::size_t group;
  std::int64_t head, kv_head;
};

struct Layout {
  std::vector<std::vector<Document>> groups;  // the dearest first, so that threads end together
  std::vector<Task> tasks;
  std::int64_t head_dim, value_dim, q_stride, k_stride, v_stride;
  std::int64_t block_rows = kernels::block_rows();
};

/// What a document and its prefix cost, in no unit.
std::int64_t cost(const std::vector<Document>& group) {
  std::int64_t sum = 0;
  for (const auto& d : group) sum += d.length * (2 * d.prefix_length + d.length);
  return sum;
}

/// Documents each in a group of its own, or beside the prefix whose gradient they add to.
enum class Grouping { Single, ByPrefix };

std::vector<std::vector<Document>> grouped(const Documents& documents, Grouping grouping) {
  const auto& offsets = documents.offsets;
  std::vector<std::vector<Document>> groups;
  std::vector<std::size_t> group_of;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
    Document document{offsets[d], offsets[d + 1] - offsets[d]};
    group_of.push_back(groups.size());
    if (!documents.prefix_of.empty() && documents.prefix_of[d] >= 0) {
      const auto p = static_cast<std::size_t>(documents.prefix_of[d]);
      document.prefix_begin = offsets[p];
      document.prefix_length = offsets[p + 1] - offsets[p];
      if (grouping == Grouping::ByPrefix) group_of.back() = group_of[p];
    }
    if (group_of.back() == groups.size()) groups.emplace_back();
    if (document.length > 0) groups[group_of.back()].push_back(document);
  }
  std::erase_if(groups, [](const auto& group) { return group.empty(); });
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return cost(a) > cost(b); });
  return groups;
}

Layout lay_out(const at::Tensor& q_TNH, const at::Tensor& k_TKH, const at::Tensor& v_TKV,
               const Documents& documents, Grouping grouping) {
  check_documents("block_attention", documents, q_TNH.size(0));
  Layout layout{grouped(documents, grouping),
                {},
                q_TNH.size(2),
                v_TKV.size(2),
                q_TNH.stride(0),
                k_TKH.stride(0),
                v_TKV.stride(0)};
  const auto heads = q_TNH.size(1), heads_a_kv_head = heads / k_TKH.size(1);
  for (std::size_t g = 0; g < layout.groups.size(); ++g)
    for (std::int64_t n = 0; n < heads; ++n) layout.tasks.push_back({g, n, n / heads_a_kv_head});
  return layout;
}

template <class T>
struct Scratch {
  std::vector<float> scores, dscores, rows;
  std::vector<T> p, ds;
};

template <class T>
struct ForwardPointers {
  const T *q, *k, *v;
  T* out;
  float* log_sum;
  std::int64_t num_heads;
};

template <class T>
void forward_document(const Document& d, const Task& task, const Layout& layout,
                      const ForwardPointers<T>& at, float scale, Scratch<T>& scratch) {
  const auto h = layout.head_dim, qs = layout.q_stride, ks = layout.k_stride;
  const auto w = layout.value_dim, vs = layout.v_stride, os = at.num_heads * w;
  const auto before = d.prefix_length;
  const auto* k = at.k + d.begin * ks + task.kv_head * h;
  const auto* v = at.v + d.begin * vs + task.kv_head * w;
  const auto* prefix_k = at.k + d.prefix_begin * ks + task.kv_head * h;
  const auto* prefix_v = at.v + d.prefix_begin * vs + task.kv_head * w;
  for (std::int64_t i0 = 0; i0 < d.length; i0 += layout.block_rows) {
    const auto rows = std::min(layout.block_rows, d.length - i0), own = i0 + rows, n = before + own;
    const auto first = d.begin + i0;
    scratch.scores.resize(static_cast<std::size_t>(rows * n));
    scratch.p.resize(static_cast<std::size_t>(rows * n));
    scratch.rows.resize(static_cast<std::size_t>(rows * w));
    const auto* q = at.q + first * qs + task.head * h;
    auto* score = scratch.scores.data();
    if (before > 0) gemm_nt(rows, before, h, scale, q, qs, prefix_k, ks, 0.0F, score, n);
    gemm_nt(rows, own, h, scale, q, qs, k, ks, 0.0F, score + before, n);
    float sums[kMaxBlockRows];
    for (std::int64_t i = 0; i < rows; ++i) {
      float top = 0.0F;
      softmax_row(score + i * n, before + i0 + i + 1, n, scratch.p.data() + i * n, sums + i, &top);
      at.log_sum[(first + i) * at.num_heads + task.head] = top + std::log(sums[i]);
    }
    const auto* p = scratch.p.data();
    auto* out = scratch.rows.data();
    if (before > 0) gemm_nn(rows, w, before, 1.0F, p, n, prefix_v, vs, 0.0F, out, w);
    gemm_nn(rows, w, own, 1.0F, p + before, n, v, vs, before > 0 ? 1.0F : 0.0F, out, w);
    for (std::int64_t i = 0; i < rows; ++i)
      narrow_row(out + i * w, 1.0F / sums[i], w, at.out + (first + i) * os + task.head * w);
  }
}

template <class T>
struct BackwardPointers {
  const T *dout, *out, *q, *k, *v;
  const float* log_sum;
  T* dq;
  // (T, N, H) and (T, N, V): each query head's share, added up over its group afterwards
  float *dk, *dv;
  std::int64_t num_heads;
};

/// A head's keys and values of a run of tokens, and where their gradients go.
template <class T>
struct Keys {
  const T *k, *v;
  float *dk, *dv;
};

template <class T>
Keys<T> keys_at(std::int64_t begin, const Task& task, const Layout& layout,
                const BackwardPointers<T>& at) {
  const auto h = layout.head_dim, w = layout.value_dim;
  return {at.k + begin * layout.k_stride + task.kv_head * h,
          at.v + begin * layout.v_stride + task.kv_head * w,
          at.dk + (begin * at.num_heads + task.head) * h,
          at.dv + (begin * at.num_heads + task.head) * w};
}

template <class T>
void backward_document(const Document& d, const Task& task, const Layout& layout,
                       const BackwardPointers<T>& at, float scale, Scratch<T>& scratch) {
  const auto h = layout.head_dim, qs = layout.q_stride, ks = layout.k_stride;
  const auto w = layout.value_dim, vs = layout.v_stride;
  const auto hs = at.num_heads * h, os = at.num_heads * w;
  const auto before = d.prefix_length;
  const auto own_keys = keys_at(d.begin, task, layout, at);
  const auto prefix_keys = keys_at(d.prefix_begin, task, layout, at);
  // From the last block on, which writes every key's row; the earlier ones add to it.
  const auto last = (d.length - 1) / layout.block_rows * layout.block_rows;
  for (auto i0 = last; i0 >= 0; i0 -= layout.block_rows) {
    const auto rows = std::min(layout.block_rows, d.length - i0), own = i0 + rows, n = before + own;
    const auto first = d.begin + i0;
    const auto* q = at.q + first * qs + task.head * h;
    const auto* dout = at.dout + first * os + task.head * w;
    const auto* out = at.out + first * os + task.head * w;
    for (auto* buffer : {&scratch.scores, &scratch.dscores})
      buffer->resize(static_cast<std::size_t>(rows * n));
    for (auto* buffer : {&scratch.p, &scratch.ds})
      buffer->resize(static_cast<std::size_t>(rows * n));
    scratch.rows.resize(static_cast<std::size_t>(rows * h));
    auto *score = scratch.scores.data(), *dscore = scratch.dscores.data();
    const auto scores_of = [&](const Keys<T>& keys, std::int64_t count, std::int64_t column) {
      gemm_nt(rows, count, h, scale, q, qs, keys.k, ks, 0.0F, score + column, n);
      gemm_nt(rows, count, w, 1.0F, dout, os, keys.v, vs, 0.0F, dscore + column, n);
    };
    if (before > 0) scores_of(prefix_keys, before, 0);
    scores_of(own_keys, own, before);
    for (std::int64_t i = 0; i < rows; ++i)
      gradient_row(score + i * n, dscore + i * n,
                   at.log_sum[(first + i) * at.num_heads + task.head],
                   dot_row(dout + i * os, out + i * os, w), scale, before + i0 + i + 1, n,
                   scratch.p.data() + i * n, scratch.ds.data() + i * n);
    const auto gradients_of = [&](const Keys<T>& keys, std::int64_t count, std::int64_t column,
                                  float key_beta, float query_beta) {
      const T *p = scratch.p.data() + column, *ds = scratch.ds.data() + column;
      gemm_tn(count, w, rows, 1.0F, p, n, dout, os, key_beta, keys.dv, os);
      gemm_tn(count, h, rows, 1.0F, ds, n, q, qs, key_beta, keys.dk, hs);
      gemm_nn(rows, h, count, 1.0F, ds, n, keys.k, ks, query_beta, scratch.rows.data(), h);
    };
    // The prefix comes before all documents that share it, so that its rows are written.
    if (before > 0) gradients_of(prefix_keys, before, 0, 1.0F, 0.0F);
    gradients_of(own_keys, own, before, i0 == last ? 0.0F : 1.0F, before > 0 ? 1.0F : 0.0F);
    for (std::int64_t i = 0; i < rows; ++i)
      narrow_row(scratch.rows.data() + i * h, 1.0F, h, at.dq + (first + i) * hs + task.head * h);
  }
}

/// Runs `each` over the tasks' documents, tasks dealt out one by one: a group's heads cost alike,
/// groups not.
template <class T, class Each>
void for_tasks(const Layout& layout, const Each& each) {
  const auto num_tasks = static_cast<std::int64_t>(layout.tasks.size());
  const auto threads = std::min<std::int64_t>(at::get_num_threads(), num_tasks);
  at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> scratch;
    for (auto thread = begin; thread < end; ++thread)
      for (auto i = thread; i < num_tasks; i += threads) {
        const auto& task = layout.tasks[static_cast<std::size_t>(i)];
        for (const auto& document : layout.groups[task.group]) each(document, task, scratch);
      }
  });
}

void check(const at::Tensor& q_TNH, const at::Tensor& k_TKH, const at::Tensor& v_TKV) {
  const auto by_token = [](const at::Tensor& x) {
    return x.dim() == 3 && x.stride(2) == 1 && x.stride(1) == x.size(2);
  };
  TORCH_CHECK_VALUE(by_token(q_TNH) && by_token(k_TKH) && by_token(v_TKV) &&
                        k_TKH.size(0) == v_TKV.size(0) && k_TKH.size(1) == v_TKV.size(1) &&
                        q_TNH.size(0) == k_TKH.size(0) && q_TNH.size(2) == k_TKH.size(2) &&
                        q_TNH.size(1) % k_TKH.size(1) == 0,
                    "block_attention: q ", q_TNH.sizes(), ", k ", k_TKH.sizes(), " and v ",
                    v_TKV.sizes(), " do not fit");
}

template <class T>
void run_forward(const BlockAttention& result, const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                 const at::Tensor& v_TKV, const Layout& layout, double scale) {
  const ForwardPointers<T> at{q_TNH.const_data_ptr<T>(),
                              k_TKH.const_data_ptr<T>(),
                              v_TKV.const_data_ptr<T>(),
                              result.out_TNV.mutable_data_ptr<T>(),
                              result.log_sum_TN.mutable_data_ptr<float>(),
                              q_TNH.size(1)};
  for_tasks<T>(layout, [&](const Document& d, const Task& task, Scratch<T>& scratch) {
    forward_document(d, task, layout, at, static_cast<float>(scale), scratch);
  });
}

/// Adds up the heads of each group, (T, N, H) float32 -> (T, K, H).
at::Tensor summed_over_group(const at::Tensor& d_TNH, std::int64_t num_kv_heads,
                             at::ScalarType dtype) {
  const auto group = d_TNH.size(1) / num_kv_heads;
  if (group == 1) return d_TNH.to(dtype);
  return d_TNH.unflatten(1, {num_kv_heads, group}).sum(2).to(dtype);
}

template <class T>
void run_backward(const AttentionGradients& result, const at::Tensor& dk_TNH,
                  const at::Tensor& dv_TNV, const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                  const at::Tensor& k_TKH, const at::Tensor& v_TKV, const BlockAttention& forward,
                  const Layout& layout, double scale) {
  const BackwardPointers<T> at{
      dout_TNV.const_data_ptr<T>(),        forward.out_TNV.const_data_ptr<T>(),
      q_TNH.const_data_ptr<T>(),           k_TKH.const_data_ptr<T>(),
      v_TKV.const_data_ptr<T>(),           forward.log_sum_TN.const_data_ptr<float>(),
      result.dq_TNH.mutable_data_ptr<T>(), dk_TNH.mutable_data_ptr<float>(),
      dv_TNV.mutable_data_ptr<float>(),    q_TNH.size(1)};
  for_tasks<T>(layout, [&](const Document& d, const Task& task, Scratch<T>& scratch) {
    backward_document(d, task, layout, at, static_cast<float>(scale), scratch);
  });
}

}  // namespace

void check_documents(const char* op, const Documents& documents, std::int64_t num_tokens) {
  const auto& [offsets, prefix_of] = documents;
  TORCH_CHECK_VALUE(!offsets.empty() && offsets.front() == 0 && offsets.back() == num_tokens &&
                        std::is_sorted(offsets.begin(), offsets.end()),
                    op, ": document_offsets must run from 0 to T = ", num_tokens);
  TORCH_CHECK_VALUE(prefix_of.empty() || prefix_of.size() + 1 == offsets.size(), op,
                    ": prefix_of names ", prefix_of.size(), " documents of ", offsets.size() - 1);
  for (std::size_t d = 0; d < prefix_of.size(); ++d) {
    const auto prefix = prefix_of[d];
    TORCH_CHECK_VALUE(prefix >= -1 && prefix < static_cast<std::int64_t>(d), op, ": prefix_of[", d,
                      "] = ", prefix, ": expected an earlier document, or -1");
    TORCH_CHECK_VALUE(prefix < 0 || prefix_of[static_cast<std::size_t>(prefix)] == -1, op,
                      ": prefix_of[", d, "] = ", prefix, ": that document has a prefix itself");
  }
}

BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, const Documents& documents, double scale) {
  check(q_TNH, k_TKH, v_TKV);
  if (!q_TNH.is_cpu()) {
    const auto forward = takes_flash_attention(q_TNH, k_TKH, v_TKV, documents)
                             ? flash_attention
                             : plain::block_attention;
    return forward(q_TNH, k_TKH, v_TKV, documents, scale);
  }
  const auto layout = lay_out(q_TNH, k_TKH, v_TKV, documents, Grouping::Single);
  BlockAttention result{
      at::empty({q_TNH.size(0), q_TNH.size(1), v_TKV.size(2)}, q_TNH.options()),
      at::empty({q_TNH.size(0), q_TNH.size(1)}, q_TNH.options().dtype(at::kFloat))};
  if (q_TNH.scalar_type() == at::kBFloat16) {
    run_forward<c10::BFloat16>(result, q_TNH, k_TKH, v_TKV, layout, scale);
  } else {
    run_forward<float>(result, q_TNH, k_TKH, v_TKV, layout, scale);
  }
  return result;
}

AttentionGradients block_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            const Documents& documents, double scale) {
  check(q_TNH, k_TKH, v_TKV);
  TORCH_CHECK_VALUE(dout_TNV.is_contiguous() && dout_TNV.sizes() == forward.out_TNV.sizes(),
                    "block_attention: the gradient must be contiguous like the answer");
  if (!q_TNH.is_cpu()) {
    const auto backward = takes_flash_attention(q_TNH, k_TKH, v_TKV, documents)
                              ? flash_attention_backward
                              : plain::block_attention_backward;
    return backward(dout_TNV, q_TNH, k_TKH, v_TKV, forward, documents, scale);
  }
  const auto layout = lay_out(q_TNH, k_TKH, v_TKV, documents, Grouping::ByPrefix);
  const auto shares = q_TNH.options().dtype(at::kFloat);
  const auto dk_TNH = at::empty(q_TNH.sizes(), shares),
             dv_TNV = at::empty(dout_TNV.sizes(), shares);
  AttentionGradients result{at::empty(q_TNH.sizes(), q_TNH.options()), {}, {}};
  if (q_TNH.scalar_type() == at::kBFloat16) {
    run_backward<c10::BFloat16>(result, dk_TNH, dv_TNV, dout_TNV, q_TNH, k_TKH, v_TKV, forward,
                                layout, scale);
  } else {
    run_backward<float>(result, dk_TNH, dv_TNV, dout_TNV, q_TNH, k_TKH, v_TKV, forward, layout,
                        scale);
  }
  result.dk_TKH = summed_over_group(dk_TNH, k_TKH.size(1), q_TNH.scalar_type());
  result.dv_TKV = summed_over_group(dv_TNV, v_TKV.size(1), q_TNH.scalar_type());
  return result;
}

}  // namespace tailor::models::kernels
