// T tokens, I in, O out.
#include "models/kernels/weight.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <c10/util/Exception.h>

#include <atomic>

#include "models/kernels/add_product.hpp"
#include "models/kernels/matvec.hpp"

namespace tailor::models::kernels {
namespace {

// 4 GiB: a 1B-parameter model. Above it memory is worth more than the widening.
std::atomic<std::int64_t> budget_bytes{std::int64_t{4} << 30};
std::atomic<std::int64_t> used_bytes{0};

/// c = beta c + a b + term.
void tiles(at::Tensor& c, const at::Tensor& a, const at::Tensor& b, float beta,
           const LowRankTerm* term) {
  check_product(c, a, b);
  JoinedProduct joined;
  if (term != nullptr) {
    check_product(c, term->a_TR, term->b_RF);
    joined = {view_of(term->a_TR), view_of(term->b_RF), term->a_TR.size(1),
              static_cast<float>(term->scale)};
  }
  tiled_gemm(c.size(0), c.size(1), a.size(1), 1.0F, view_of(a), view_of(b), beta,
             c.mutable_data_ptr<float>(), c.stride(0), joined);
}

/// y += term. Like matvec(), and unlike libtorch's products, it gives a row the same bits whatever
/// rows stand beside it: tiled_gemm() copies a B whose columns lie in one piece, as the turned
/// factor's do, and its runs over k are then the same for any number of rows.
void add_few(at::Tensor& y_TO, const LowRankTerm& term) {
  check_product(y_TO, term.a_TR, term.b_RF);
  const auto a = term.a_TR.to(at::kFloat), b = term.b_RF.to(at::kFloat);
  const bool wide = y_TO.scalar_type() == at::kFloat;
  auto sum = wide ? y_TO : y_TO.to(at::kFloat);
  tiled_gemm(a.size(0), b.size(1), a.size(1), static_cast<float>(term.scale), view_of(a),
             view_of(b), 1.0F, sum.mutable_data_ptr<float>(), sum.stride(0));
  if (!wide) y_TO.copy_(sum);
}

}  // namespace

void set_widened_budget_bytes(std::int64_t bytes) { budget_bytes = bytes; }
std::int64_t widened_bytes() { return used_bytes; }

Weight::Weight(at::Tensor stored_OI, Arithmetic arithmetic)
    : stored_(std::move(stored_OI)), arithmetic_(arithmetic) {
  const auto dtype = stored_.scalar_type();
  TORCH_CHECK_VALUE(stored_.dim() == 2 && (dtype == at::kFloat || dtype == at::kBFloat16),
                    "weight: need a float32 or bfloat16 matrix, got ", dtype, " ", stored_.sizes());
  TORCH_CHECK_VALUE(arithmetic_ == Arithmetic::Float32 || dtype == at::kBFloat16,
                    "weight: bfloat16 arithmetic needs bfloat16 storage");
  if (arithmetic_ == Arithmetic::Float32 && dtype == at::kBFloat16) {
    const auto bytes = stored_.numel() * 4;
    if (used_bytes.fetch_add(bytes) + bytes <= budget_bytes) {
      widened_ = stored_.to(at::kFloat).contiguous();
      lease_ = std::shared_ptr<void>(nullptr, [bytes](void*) { used_bytes -= bytes; });
    } else {
      used_bytes -= bytes;
    }
  }
}

at::Tensor Weight::operand() const {
  if (widened_.defined()) return widened_;
  return stored_.to(activation_dtype(arithmetic_));
}

bool Weight::keeps_operand() const {
  return widened_.defined() || stored_.scalar_type() == activation_dtype(arithmetic_);
}

at::Tensor Weight::forward(const at::Tensor& x_TI, const std::optional<at::Tensor>& bias_O,
                           const LowRankTerm* term) const {
  const bool few = takes_matvec(x_TI);
  if (!few && takes_tiles(x_TI)) {
    auto y_TO = at::empty({x_TI.size(0), out_features()}, x_TI.options());
    tiles(y_TO, x_TI, operand().t(), 0.0F, term);
    if (bias_O) y_TO.add_(*bias_O);
    return y_TO;
  }
  auto y_TO = few ? matvec(x_TI, stored_, bias_O) : at::linear(x_TI, operand(), bias_O);
  if (term == nullptr) return y_TO;
  if (few)
    add_few(y_TO, *term);
  else
    y_TO.addmm_(term->a_TR, term->b_RF, 1, term->scale);
  return y_TO;
}

void Weight::backward_(at::Tensor& dx_TI, const at::Tensor& dy_TO, const LowRankTerm* term) const {
  const bool add = dx_TI.defined();
  if (takes_tiles(dy_TO)) {
    if (!add) dx_TI = at::empty({dy_TO.size(0), in_features()}, dy_TO.options());
    tiles(dx_TI, dy_TO, operand(), add ? 1.0F : 0.0F, term);
    return;
  }
  if (add)
    add_product_(dx_TI, dy_TO, operand());
  else
    dx_TI = at::mm(dy_TO, operand());
  if (term != nullptr) dx_TI.addmm_(term->a_TR, term->b_RF, 1, term->scale);
}

}  // namespace tailor::models::kernels
