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
#include "models/kernels/small_gemm.hpp"

namespace tailor::models::kernels {
namespace {

// Large enough for the products' peak, small enough that what the diagonal wastes is little.
constexpr std::int64_t kBlockRows = 128;

/// A head of a document: where its rows begin, and how far apart they are.
struct Task {
  std::int64_t begin, length, head, kv_head;
};

struct Layout {
  std::vector<Task> tasks;  // the longest first, so that threads end together
  std::int64_t head_dim, value_dim, q_stride, k_stride, v_stride;
};

Layout lay_out(const at::Tensor& q_TNH, const at::Tensor& k_TKH, const at::Tensor& v_TKV,
               std::span<const std::int64_t> offsets) {
  Layout layout{
      {}, q_TNH.size(2), v_TKV.size(2), q_TNH.stride(0), k_TKH.stride(0), v_TKV.stride(0)};
  const auto heads = q_TNH.size(1), group = heads / k_TKH.size(1);
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
    const auto length = offsets[d + 1] - offsets[d];
    for (std::int64_t n = 0; n < heads && length > 0; ++n)
      layout.tasks.push_back({offsets[d], length, n, n / group});
  }
  std::stable_sort(layout.tasks.begin(), layout.tasks.end(),
                   [](const Task& a, const Task& b) { return a.length > b.length; });
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
void forward_task(const Task& task, const Layout& layout, const ForwardPointers<T>& at, float scale,
                  Scratch<T>& scratch) {
  const auto h = layout.head_dim, qs = layout.q_stride, ks = layout.k_stride;
  const auto w = layout.value_dim, vs = layout.v_stride, os = at.num_heads * w;
  const auto* k = at.k + task.begin * ks + task.kv_head * h;
  const auto* v = at.v + task.begin * vs + task.kv_head * w;
  for (std::int64_t i0 = 0; i0 < task.length; i0 += kBlockRows) {
    const auto rows = std::min(kBlockRows, task.length - i0), n = i0 + rows;
    const auto first = task.begin + i0;
    scratch.scores.resize(static_cast<std::size_t>(rows * n));
    scratch.p.resize(static_cast<std::size_t>(rows * n));
    scratch.rows.resize(static_cast<std::size_t>(rows * w));
    gemm_nt(rows, n, h, scale, at.q + first * qs + task.head * h, qs, k, ks, 0.0F,
            scratch.scores.data(), n);
    float sums[kBlockRows];
    for (std::int64_t i = 0; i < rows; ++i) {
      float top = 0.0F;
      softmax_row(scratch.scores.data() + i * n, i0 + i + 1, n, scratch.p.data() + i * n, sums + i,
                  &top);
      at.log_sum[(first + i) * at.num_heads + task.head] = top + std::log(sums[i]);
    }
    gemm_nn(rows, w, n, 1.0F, scratch.p.data(), n, v, vs, 0.0F, scratch.rows.data(), w);
    for (std::int64_t i = 0; i < rows; ++i)
      narrow_row(scratch.rows.data() + i * w, 1.0F / sums[i], w,
                 at.out + (first + i) * os + task.head * w);
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

template <class T>
void backward_task(const Task& task, const Layout& layout, const BackwardPointers<T>& at,
                   float scale, Scratch<T>& scratch) {
  const auto h = layout.head_dim, qs = layout.q_stride, ks = layout.k_stride;
  const auto w = layout.value_dim, vs = layout.v_stride;
  const auto hs = at.num_heads * h, os = at.num_heads * w;
  const auto* k = at.k + task.begin * ks + task.kv_head * h;
  const auto* v = at.v + task.begin * vs + task.kv_head * w;
  auto* dk = at.dk + task.begin * hs + task.head * h;
  auto* dv = at.dv + task.begin * os + task.head * w;
  // From the last block on, which writes every key's row; the earlier ones add to it.
  const auto last = (task.length - 1) / kBlockRows * kBlockRows;
  for (auto i0 = last; i0 >= 0; i0 -= kBlockRows) {
    const auto rows = std::min(kBlockRows, task.length - i0), n = i0 + rows;
    const auto first = task.begin + i0;
    const auto beta = i0 == last ? 0.0F : 1.0F;
    const auto* q = at.q + first * qs + task.head * h;
    const auto* dout = at.dout + first * os + task.head * w;
    const auto* out = at.out + first * os + task.head * w;
    for (auto* buffer : {&scratch.scores, &scratch.dscores})
      buffer->resize(static_cast<std::size_t>(rows * n));
    for (auto* buffer : {&scratch.p, &scratch.ds})
      buffer->resize(static_cast<std::size_t>(rows * n));
    scratch.rows.resize(static_cast<std::size_t>(rows * h));
    gemm_nt(rows, n, h, scale, q, qs, k, ks, 0.0F, scratch.scores.data(), n);
    gemm_nt(rows, n, w, 1.0F, dout, os, v, vs, 0.0F, scratch.dscores.data(), n);
    for (std::int64_t i = 0; i < rows; ++i)
      gradient_row(scratch.scores.data() + i * n, scratch.dscores.data() + i * n,
                   at.log_sum[(first + i) * at.num_heads + task.head],
                   dot_row(dout + i * os, out + i * os, w), scale, i0 + i + 1, n,
                   scratch.p.data() + i * n, scratch.ds.data() + i * n);
    const T *p = scratch.p.data(), *ds = scratch.ds.data();
    gemm_tn(n, w, rows, 1.0F, p, n, dout, os, beta, dv, os);
    gemm_tn(n, h, rows, 1.0F, ds, n, q, qs, beta, dk, hs);
    gemm_nn(rows, h, n, 1.0F, ds, n, k, ks, 0.0F, scratch.rows.data(), h);
    for (std::int64_t i = 0; i < rows; ++i)
      narrow_row(scratch.rows.data() + i * h, 1.0F, h, at.dq + (first + i) * hs + task.head * h);
  }
}

/// Runs `each` over the tasks, dealt out one by one: a document's heads cost alike, documents not.
template <class T, class Each>
void for_tasks(const Layout& layout, const Each& each) {
  const auto num_tasks = static_cast<std::int64_t>(layout.tasks.size());
  const auto threads = std::min<std::int64_t>(at::get_num_threads(), num_tasks);
  at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> scratch;
    for (auto thread = begin; thread < end; ++thread)
      for (auto i = thread; i < num_tasks; i += threads)
        each(layout.tasks[static_cast<std::size_t>(i)], scratch);
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
  for_tasks<T>(layout, [&](const Task& task, Scratch<T>& scratch) {
    forward_task(task, layout, at, static_cast<float>(scale), scratch);
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
  for_tasks<T>(layout, [&](const Task& task, Scratch<T>& scratch) {
    backward_task(task, layout, at, static_cast<float>(scale), scratch);
  });
}

}  // namespace

BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, std::span<const std::int64_t> offsets,
                               double scale) {
  check(q_TNH, k_TKH, v_TKV);
  const auto layout = lay_out(q_TNH, k_TKH, v_TKV, offsets);
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
                                            std::span<const std::int64_t> offsets, double scale) {
  check(q_TNH, k_TKH, v_TKV);
  TORCH_CHECK_VALUE(dout_TNV.is_contiguous() && dout_TNV.sizes() == forward.out_TNV.sizes(),
                    "block_attention: the gradient must be contiguous like the answer");
  const auto layout = lay_out(q_TNH, k_TKH, v_TKV, offsets);
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
