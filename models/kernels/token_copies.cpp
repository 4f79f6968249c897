// T tokens, K slots of each, M rows, D values a row.
#include "models/kernels/token_copies.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/token_copies.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

/// y = sum_k weights[k] rows[row_of[k]], one token's slots in order; weights null: 1.
template <class T>
void sum_slots(const T* rows, const std::int64_t* row_of, const float* weights, std::int64_t slots,
               std::int64_t size, T* y) {
  const Floats d;
  const auto weight = [&](std::int64_t k) { return weights == nullptr ? 1.0F : weights[k]; };
  for_row(
      d, size,
      [&](std::int64_t i) {
        auto sum = hn::Zero(d);
        for (std::int64_t k = 0; k < slots; ++k)
          if (row_of[k] >= 0)
            sum = hn::MulAdd(hn::Set(d, weight(k)), load(d, rows + row_of[k] * size + i), sum);
        store(d, sum, y + i);
      },
      [&](std::int64_t i) {
        float sum = 0;
        for (std::int64_t k = 0; k < slots; ++k)
          if (row_of[k] >= 0) sum += weight(k) * static_cast<float>(rows[row_of[k] * size + i]);
        y[i] = static_cast<T>(sum);
      });
}

/// drow = weight dy; answers dy . row.
template <class T>
float scale_and_dot(const T* dy, const T* row, float weight, std::int64_t size, T* drow) {
  const Floats d;
  auto products = hn::Zero(d);
  float rest = 0;
  for_row(
      d, size,
      [&](std::int64_t i) {
        const auto v = load(d, dy + i);
        products = hn::MulAdd(v, load(d, row + i), products);
        store(d, hn::Mul(v, hn::Set(d, weight)), drow + i);
      },
      [&](std::int64_t i) {
        const auto v = static_cast<float>(dy[i]);
        rest += v * static_cast<float>(row[i]);
        drow[i] = static_cast<T>(v * weight);
      });
  return hn::GetLane(hn::SumOfLanes(d, products)) + rest;
}

void sum_slots_float(const float* rows, const std::int64_t* row_of, const float* weights,
                     std::int64_t slots, std::int64_t size, float* y) {
  sum_slots(rows, row_of, weights, slots, size, y);
}
void sum_slots_bf16(const c10::BFloat16* rows, const std::int64_t* row_of, const float* weights,
                    std::int64_t slots, std::int64_t size, c10::BFloat16* y) {
  sum_slots(rows, row_of, weights, slots, size, y);
}
float scale_and_dot_float(const float* dy, const float* row, float weight, std::int64_t size,
                          float* drow) {
  return scale_and_dot(dy, row, weight, size, drow);
}
float scale_and_dot_bf16(const c10::BFloat16* dy, const c10::BFloat16* row, float weight,
                         std::int64_t size, c10::BFloat16* drow) {
  return scale_and_dot(dy, row, weight, size, drow);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>

#include "models/kernels/on_device.hpp"

namespace tailor::models::kernels {
namespace {

HWY_EXPORT(sum_slots_float);
HWY_EXPORT(sum_slots_bf16);
HWY_EXPORT(scale_and_dot_float);
HWY_EXPORT(scale_and_dot_bf16);

struct SumSlots {
  void operator()(const float* r, const std::int64_t* o, const float* w, std::int64_t k,
                  std::int64_t size, float* y) const {
    HWY_DYNAMIC_DISPATCH(sum_slots_float)(r, o, w, k, size, y);
  }
  void operator()(const c10::BFloat16* r, const std::int64_t* o, const float* w, std::int64_t k,
                  std::int64_t size, c10::BFloat16* y) const {
    HWY_DYNAMIC_DISPATCH(sum_slots_bf16)(r, o, w, k, size, y);
  }
};

struct ScaleAndDot {
  float operator()(const float* dy, const float* r, float w, std::int64_t size, float* dr) const {
    return HWY_DYNAMIC_DISPATCH(scale_and_dot_float)(dy, r, w, size, dr);
  }
  float operator()(const c10::BFloat16* dy, const c10::BFloat16* r, float w, std::int64_t size,
                   c10::BFloat16* dr) const {
    return HWY_DYNAMIC_DISPATCH(scale_and_dot_bf16)(dy, r, w, size, dr);
  }
};

void check(const at::Tensor& values, const at::Tensor& row_of_TK) {
  const auto dtype = values.scalar_type();
  TORCH_CHECK_VALUE(values.dim() == 2 && values.is_contiguous() &&
                        (dtype == at::kFloat || dtype == at::kBFloat16),
                    "token copies: need contiguous float32 or bfloat16 rows, got ", dtype, " ",
                    values.sizes());
  TORCH_CHECK_VALUE(
      row_of_TK.dim() == 2 && row_of_TK.is_contiguous() && row_of_TK.scalar_type() == at::kLong,
      "token copies: need a contiguous int64 row for every (token, slot)");
}

void check_rows(std::int64_t num_rows, const at::Tensor& row_of_TK) {
  const auto* row_of = row_of_TK.const_data_ptr<std::int64_t>();
  const auto used =
      std::count_if(row_of, row_of + row_of_TK.numel(), [](auto row) { return row >= 0; });
  TORCH_CHECK_VALUE(num_rows == used, "token copies: ", num_rows, " rows for ", used, " slots");
}

/// body(T()) of the rows' type.
template <class Body>
void by_dtype(const at::Tensor& rows, const Body& body) {
  if (rows.scalar_type() == at::kBFloat16)
    body(c10::BFloat16());
  else
    body(float());
}

/// body(t) for every token, in tasks worth waking a thread for.
template <class Body>
void each_token(const at::Tensor& row_of_TK, std::int64_t row_size, const Body& body) {
  constexpr std::int64_t kElementsATask = 16384;
  const auto work = std::max<std::int64_t>(1, row_of_TK.size(1) * row_size);
  at::parallel_for(0, row_of_TK.size(0), std::max<std::int64_t>(1, kElementsATask / work),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (auto t = begin; t < end; ++t) body(t);
                   });
}

}  // namespace

at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows) {
  check(x_TD, row_of_TK);
  if (!x_TD.is_cpu()) return on_device::copy_tokens(x_TD, row_of_TK, num_rows);
  check_rows(num_rows, row_of_TK);
  const auto size = x_TD.size(1), slots = row_of_TK.size(1);
  auto copies_MD = at::empty({num_rows, size}, x_TD.options());
  const auto* row_of = row_of_TK.const_data_ptr<std::int64_t>();
  by_dtype(x_TD, [&]<class T>(T /*of rows*/) {
    const auto* x = x_TD.const_data_ptr<T>();
    auto* copies = copies_MD.mutable_data_ptr<T>();
    each_token(row_of_TK, size, [&](std::int64_t t) {
      for (auto slot = t * slots; slot < (t + 1) * slots; ++slot)
        if (row_of[slot] >= 0)
          std::memcpy(copies + row_of[slot] * size, x + t * size,
                      static_cast<std::size_t>(size) * sizeof(T));
    });
  });
  return copies_MD;
}

at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK) {
  check(rows_MD, row_of_TK);
  if (!rows_MD.is_cpu()) return on_device::sum_copies(rows_MD, row_of_TK, weights_TK);
  check_rows(rows_MD.size(0), row_of_TK);
  const auto size = rows_MD.size(1), slots = row_of_TK.size(1);
  auto y_TD = at::empty({row_of_TK.size(0), size}, rows_MD.options());
  const auto* row_of = row_of_TK.const_data_ptr<std::int64_t>();
  const auto weights = weights_TK.defined() ? weights_TK.contiguous() : weights_TK;
  const auto* w = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
  by_dtype(rows_MD, [&]<class T>(T /*of rows*/) {
    const auto* rows = rows_MD.const_data_ptr<T>();
    auto* y = y_TD.mutable_data_ptr<T>();
    each_token(row_of_TK, size, [&](std::int64_t t) {
      SumSlots()(rows, row_of + t * slots, w == nullptr ? w : w + t * slots, slots, size,
                 y + t * size);
    });
  });
  return y_TD;
}

std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK) {
  check(dy_TD, row_of_TK);
  check(rows_MD, row_of_TK);
  if (!rows_MD.is_cpu())
    return on_device::sum_copies_backward(dy_TD, rows_MD, row_of_TK, weights_TK);
  check_rows(rows_MD.size(0), row_of_TK);
  const auto size = rows_MD.size(1), slots = row_of_TK.size(1);
  auto drows_MD = at::empty_like(rows_MD);
  auto dweights_TK = at::empty(row_of_TK.sizes(), weights_TK.options());
  const auto weights = weights_TK.contiguous();
  const auto* row_of = row_of_TK.const_data_ptr<std::int64_t>();
  const auto* w = weights.const_data_ptr<float>();
  auto* dw = dweights_TK.mutable_data_ptr<float>();
  by_dtype(rows_MD, [&]<class T>(T /*of rows*/) {
    const auto* dy = dy_TD.const_data_ptr<T>();
    const auto* rows = rows_MD.const_data_ptr<T>();
    auto* drows = drows_MD.mutable_data_ptr<T>();
    each_token(row_of_TK, size, [&](std::int64_t t) {
      for (auto slot = t * slots; slot < (t + 1) * slots; ++slot) {
        const auto at_row = row_of[slot] * size;
        dw[slot] = row_of[slot] < 0
                       ? 0.0F
                       : ScaleAndDot()(dy + t * size, rows + at_row, w[slot], size, drows + at_row);
      }
    });
  });
  return {drows_MD, dweights_TK};
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
