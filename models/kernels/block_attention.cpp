// T tokens, N query heads, K key/value heads, H head_dim; within one head of one document: i rows
// of a block of queries, n keys they see.
#include "models/kernels/block_attention.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/block_attention.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

/// p[j] = exp(score[j] - top) for the first `seen` keys, top their largest score; 0 for the others.
/// Answers the sum of p, which divides later, and top.
struct Softmax {
  float sum, top;
};
template <class T>
Softmax softmax_row(const float* score, std::int64_t seen, std::int64_t n, T* p) {
  const Floats d;
  auto tops = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto top = -std::numeric_limits<float>::infinity();
  for_row(
      d, seen, [&](std::int64_t j) { tops = hn::Max(tops, hn::LoadU(d, score + j)); },
      [&](std::int64_t j) { top = std::max(top, score[j]); });
  top = std::max(top, hn::GetLane(hn::MaxOfLanes(d, tops)));
  const auto vtop = hn::Set(d, top);
  auto sums = hn::Zero(d);
  float rest = 0.0F;
  for_row(
      d, seen,
      [&](std::int64_t j) {
        const auto v = hn::Exp(d, hn::Sub(hn::LoadU(d, score + j), vtop));
        sums = hn::Add(sums, v);
        store(d, v, p + j);
      },
      [&](std::int64_t j) {
        const auto v = std::exp(score[j] - top);
        rest += v;
        p[j] = static_cast<T>(v);
      });
  std::fill(p + seen, p + n, static_cast<T>(0.0F));
  return {hn::GetLane(hn::SumOfLanes(d, sums)) + rest, top};
}

/// p[j] = exp(score[j] - log_sum), ds[j] = scale p[j] (dp[j] - dot); 0 beyond the seen keys.
template <class T>
void gradient_row(const float* score, const float* dp, float log_sum, float dot, float scale,
                  std::int64_t seen, std::int64_t n, T* p, T* ds) {
  const Floats d;
  const auto shift = hn::Set(d, log_sum), vdot = hn::Set(d, dot), vscale = hn::Set(d, scale);
  for_row(
      d, seen,
      [&](std::int64_t j) {
        const auto v = hn::Exp(d, hn::Sub(hn::LoadU(d, score + j), shift));
        store(d, v, p + j);
        store(d, hn::Mul(hn::Mul(vscale, v), hn::Sub(hn::LoadU(d, dp + j), vdot)), ds + j);
      },
      [&](std::int64_t j) {
        const auto v = std::exp(score[j] - log_sum);
        p[j] = static_cast<T>(v);
        ds[j] = static_cast<T>(scale * v * (dp[j] - dot));
      });
  std::fill(p + seen, p + n, static_cast<T>(0.0F));
  std::fill(ds + seen, ds + n, static_cast<T>(0.0F));
}

template <class T>
float dot_row(const T* a, const T* b, std::int64_t size) {
  const Floats d;
  auto sums = hn::Zero(d);
  float rest = 0.0F;
  for_row(
      d, size, [&](std::int64_t i) { sums = hn::MulAdd(load(d, a + i), load(d, b + i), sums); },
      [&](std::int64_t i) { rest += static_cast<float>(a[i]) * static_cast<float>(b[i]); });
  return hn::GetLane(hn::SumOfLanes(d, sums)) + rest;
}

/// y = factor x in y's dtype.
template <class T>
void narrow_row(const float* x, float factor, std::int64_t size, T* y) {
  const Floats d;
  const auto f = hn::Set(d, factor);
  for_row(
      d, size, [&](std::int64_t i) { store(d, hn::Mul(f, hn::LoadU(d, x + i)), y + i); },
      [&](std::int64_t i) { y[i] = static_cast<T>(factor * x[i]); });
}

void softmax_float(const float* s, std::int64_t seen, std::int64_t n, float* p, float* sum,
                   float* top) {
  const auto row = softmax_row(s, seen, n, p);
  *sum = row.sum, *top = row.top;
}
void softmax_bf16(const float* s, std::int64_t seen, std::int64_t n, c10::BFloat16* p, float* sum,
                  float* top) {
  const auto row = softmax_row(s, seen, n, p);
  *sum = row.sum, *top = row.top;
}
void gradient_float(const float* s, const float* dp, float log_sum, float dot, float scale,
                    std::int64_t seen, std::int64_t n, float* p, float* ds) {
  gradient_row(s, dp, log_sum, dot, scale, seen, n, p, ds);
}
void gradient_bf16(const float* s, const float* dp, float log_sum, float dot, float scale,
                   std::int64_t seen, std::int64_t n, c10::BFloat16* p, c10::BFloat16* ds) {
  gradient_row(s, dp, log_sum, dot, scale, seen, n, p, ds);
}
float dot_float(const float* a, const float* b, std::int64_t size) { return dot_row(a, b, size); }
float dot_bf16(const c10::BFloat16* a, const c10::BFloat16* b, std::int64_t size) {
  return dot_row(a, b, size);
}
void narrow_float(const float* x, float factor, std::int64_t size, float* y) {
  narrow_row(x, factor, size, y);
}
void narrow_bf16(const float* x, float factor, std::int64_t size, c10::BFloat16* y) {
  narrow_row(x, factor, size, y);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <vector>

#include "models/kernels/small_gemm.hpp"

namespace tailor::models::kernels {
namespace {

HWY_EXPORT(softmax_float);
HWY_EXPORT(softmax_bf16);
HWY_EXPORT(gradient_float);
HWY_EXPORT(gradient_bf16);
HWY_EXPORT(dot_float);
HWY_EXPORT(dot_bf16);
HWY_EXPORT(narrow_float);
HWY_EXPORT(narrow_bf16);

/// The row kernels of one element type.
template <class T>
struct Rows;
template <>
struct Rows<float> {
  static constexpr auto softmax = [](auto... a) { HWY_DYNAMIC_DISPATCH(softmax_float)(a...); };
  static constexpr auto gradient = [](auto... a) { HWY_DYNAMIC_DISPATCH(gradient_float)(a...); };
  static constexpr auto dot = [](auto... a) { return HWY_DYNAMIC_DISPATCH(dot_float)(a...); };
  static constexpr auto narrow = [](auto... a) { HWY_DYNAMIC_DISPATCH(narrow_float)(a...); };
};
template <>
struct Rows<c10::BFloat16> {
  static constexpr auto softmax = [](auto... a) { HWY_DYNAMIC_DISPATCH(softmax_bf16)(a...); };
  static constexpr auto gradient = [](auto... a) { HWY_DYNAMIC_DISPATCH(gradient_bf16)(a...); };
  static constexpr auto dot = [](auto... a) { return HWY_DYNAMIC_DISPATCH(dot_bf16)(a...); };
  static constexpr auto narrow = [](auto... a) { HWY_DYNAMIC_DISPATCH(narrow_bf16)(a...); };
};

// Large enough for the products' peak, small enough that what the diagonal wastes is little.
constexpr std::int64_t kBlockRows = 128;

/// A head of a document: where its rows begin, and how far apart they are.
struct Task {
  std::int64_t begin, length, head, kv_head;
};

struct Layout {
  std::vector<Task> tasks;  // the longest first, so that threads end together
  std::int64_t head_dim, q_stride, kv_stride;
};

Layout lay_out(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
               std::span<const std::int64_t> offsets) {
  Layout layout{{}, q_TNH.size(2), q_TNH.stride(0), k_TKH.stride(0)};
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
  const auto h = layout.head_dim, qs = layout.q_stride, ks = layout.kv_stride;
  const auto out_stride = at.num_heads * h;
  const auto* k = at.k + task.begin * ks + task.kv_head * h;
  const auto* v = at.v + task.begin * ks + task.kv_head * h;
  for (std::int64_t i0 = 0; i0 < task.length; i0 += kBlockRows) {
    const auto rows = std::min(kBlockRows, task.length - i0), n = i0 + rows;
    const auto first = task.begin + i0;
    scratch.scores.resize(static_cast<std::size_t>(rows * n));
    scratch.p.resize(static_cast<std::size_t>(rows * n));
    scratch.rows.resize(static_cast<std::size_t>(rows * h));
    gemm_nt(rows, n, h, scale, at.q + first * qs + task.head * h, qs, k, ks, 0.0F,
            scratch.scores.data(), n);
    float sums[kBlockRows];
    for (std::int64_t i = 0; i < rows; ++i) {
      float top = 0.0F;
      Rows<T>::softmax(const_cast<const float*>(scratch.scores.data()) + i * n, i0 + i + 1, n,
                       scratch.p.data() + i * n, sums + i, &top);
      at.log_sum[(first + i) * at.num_heads + task.head] = top + std::log(sums[i]);
    }
    gemm_nn(rows, h, n, 1.0F, const_cast<const T*>(scratch.p.data()), n, v, ks, 0.0F,
            scratch.rows.data(), h);
    for (std::int64_t i = 0; i < rows; ++i)
      Rows<T>::narrow(const_cast<const float*>(scratch.rows.data()) + i * h, 1.0F / sums[i], h,
                      at.out + (first + i) * out_stride + task.head * h);
  }
}

template <class T>
struct BackwardPointers {
  const T *dout, *out, *q, *k, *v;
  const float* log_sum;
  T* dq;
  float *dk, *dv;  // (T, N, H): each query head's share, added up over its group afterwards
  std::int64_t num_heads;
};

template <class T>
void backward_task(const Task& task, const Layout& layout, const BackwardPointers<T>& at,
                   float scale, Scratch<T>& scratch) {
  const auto h = layout.head_dim, qs = layout.q_stride, ks = layout.kv_stride;
  const auto os = at.num_heads * h;
  const auto* k = at.k + task.begin * ks + task.kv_head * h;
  const auto* v = at.v + task.begin * ks + task.kv_head * h;
  auto* dk = at.dk + task.begin * os + task.head * h;
  auto* dv = at.dv + task.begin * os + task.head * h;
  // From the last block on, which writes every key's row; the earlier ones add to it.
  const auto last = (task.length - 1) / kBlockRows * kBlockRows;
  for (auto i0 = last; i0 >= 0; i0 -= kBlockRows) {
    const auto rows = std::min(kBlockRows, task.length - i0), n = i0 + rows;
    const auto first = task.begin + i0;
    const auto beta = i0 == last ? 0.0F : 1.0F;
    const auto* q = at.q + first * qs + task.head * h;
    const auto* dout = at.dout + first * os + task.head * h;
    const auto* out = at.out + first * os + task.head * h;
    for (auto* buffer : {&scratch.scores, &scratch.dscores})
      buffer->resize(static_cast<std::size_t>(rows * n));
    for (auto* buffer : {&scratch.p, &scratch.ds})
      buffer->resize(static_cast<std::size_t>(rows * n));
    scratch.rows.resize(static_cast<std::size_t>(rows * h));
    gemm_nt(rows, n, h, scale, q, qs, k, ks, 0.0F, scratch.scores.data(), n);
    gemm_nt(rows, n, h, 1.0F, dout, os, v, ks, 0.0F, scratch.dscores.data(), n);
    for (std::int64_t i = 0; i < rows; ++i)
      Rows<T>::gradient(const_cast<const float*>(scratch.scores.data()) + i * n,
                        const_cast<const float*>(scratch.dscores.data()) + i * n,
                        at.log_sum[(first + i) * at.num_heads + task.head],
                        Rows<T>::dot(dout + i * os, out + i * os, h), scale, i0 + i + 1, n,
                        scratch.p.data() + i * n, scratch.ds.data() + i * n);
    const T *p = scratch.p.data(), *ds = scratch.ds.data();
    gemm_tn(n, h, rows, 1.0F, p, n, dout, os, beta, dv, os);
    gemm_tn(n, h, rows, 1.0F, ds, n, q, qs, beta, dk, os);
    gemm_nn(rows, h, n, 1.0F, ds, n, k, ks, 0.0F, scratch.rows.data(), h);
    for (std::int64_t i = 0; i < rows; ++i)
      Rows<T>::narrow(const_cast<const float*>(scratch.rows.data()) + i * h, 1.0F, h,
                      at.dq + (first + i) * os + task.head * h);
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

void check(const at::Tensor& q_TNH, const at::Tensor& k_TKH, const at::Tensor& v_TKH) {
  const auto by_token = [](const at::Tensor& x) {
    return x.dim() == 3 && x.stride(2) == 1 && x.stride(1) == x.size(2);
  };
  TORCH_CHECK_VALUE(by_token(q_TNH) && by_token(k_TKH) && k_TKH.sizes() == v_TKH.sizes() &&
                        k_TKH.strides() == v_TKH.strides() && q_TNH.size(2) == k_TKH.size(2) &&
                        q_TNH.size(1) % k_TKH.size(1) == 0,
                    "block_attention: q ", q_TNH.sizes(), ", k ", k_TKH.sizes(), " and v ",
                    v_TKH.sizes(), " do not fit");
}

template <class T>
void run_forward(const BlockAttention& result, const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                 const at::Tensor& v_TKH, const Layout& layout, double scale) {
  const ForwardPointers<T> at{q_TNH.const_data_ptr<T>(),
                              k_TKH.const_data_ptr<T>(),
                              v_TKH.const_data_ptr<T>(),
                              result.out_TNH.mutable_data_ptr<T>(),
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
                  const at::Tensor& dv_TNH, const at::Tensor& dout_TNH, const at::Tensor& q_TNH,
                  const at::Tensor& k_TKH, const at::Tensor& v_TKH, const BlockAttention& forward,
                  const Layout& layout, double scale) {
  const BackwardPointers<T> at{
      dout_TNH.const_data_ptr<T>(),        forward.out_TNH.const_data_ptr<T>(),
      q_TNH.const_data_ptr<T>(),           k_TKH.const_data_ptr<T>(),
      v_TKH.const_data_ptr<T>(),           forward.log_sum_TN.const_data_ptr<float>(),
      result.dq_TNH.mutable_data_ptr<T>(), dk_TNH.mutable_data_ptr<float>(),
      dv_TNH.mutable_data_ptr<float>(),    q_TNH.size(1)};
  for_tasks<T>(layout, [&](const Task& task, Scratch<T>& scratch) {
    backward_task(task, layout, at, static_cast<float>(scale), scratch);
  });
}

}  // namespace

BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKH, std::span<const std::int64_t> offsets,
                               double scale) {
  check(q_TNH, k_TKH, v_TKH);
  const auto layout = lay_out(q_TNH, k_TKH, offsets);
  BlockAttention result{
      at::empty(q_TNH.sizes(), q_TNH.options()),
      at::empty({q_TNH.size(0), q_TNH.size(1)}, q_TNH.options().dtype(at::kFloat))};
  if (q_TNH.scalar_type() == at::kBFloat16) {
    run_forward<c10::BFloat16>(result, q_TNH, k_TKH, v_TKH, layout, scale);
  } else {
    run_forward<float>(result, q_TNH, k_TKH, v_TKH, layout, scale);
  }
  return result;
}

AttentionGradients block_attention_backward(const at::Tensor& dout_TNH, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKH,
                                            const BlockAttention& forward,
                                            std::span<const std::int64_t> offsets, double scale) {
  check(q_TNH, k_TKH, v_TKH);
  TORCH_CHECK_VALUE(dout_TNH.is_contiguous() && dout_TNH.sizes() == q_TNH.sizes(),
                    "block_attention: the gradient must be contiguous like q");
  const auto layout = lay_out(q_TNH, k_TKH, offsets);
  const auto shares = q_TNH.options().dtype(at::kFloat);
  const auto dk_TNH = at::empty(q_TNH.sizes(), shares), dv_TNH = at::empty(q_TNH.sizes(), shares);
  AttentionGradients result{at::empty(q_TNH.sizes(), q_TNH.options()), {}, {}};
  if (q_TNH.scalar_type() == at::kBFloat16) {
    run_backward<c10::BFloat16>(result, dk_TNH, dv_TNH, dout_TNH, q_TNH, k_TKH, v_TKH, forward,
                                layout, scale);
  } else {
    run_backward<float>(result, dk_TNH, dv_TNH, dout_TNH, q_TNH, k_TKH, v_TKH, forward, layout,
                        scale);
  }
  result.dk_TKH = summed_over_group(dk_TNH, k_TKH.size(1), q_TNH.scalar_type());
  result.dv_TKH = summed_over_group(dv_TNH, v_TKH.size(1), q_TNH.scalar_type());
  return result;
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
