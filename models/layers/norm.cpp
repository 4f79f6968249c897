#include "models/layers/norm.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "models/kernels/rms_norm.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<at::Tensor> present(const at::Tensor& gradient) {
  if (!gradient.defined()) return std::nullopt;
  return gradient.contiguous();
}

struct Norm : torch::autograd::Function<Norm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& weight_D, double eps) {
    const auto rows = kernels::rms_norm(x_TD, {}, weight_D, eps);
    ctx->save_for_backward({rows.h_TD, weight_D, rows.rstd_T});
    return rows.y_TD;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto saved = ctx->get_saved_variables();
    return {
        kernels::rms_norm_backward(dy[0].contiguous(), {}, saved[0], saved[1], saved[2]), {}, {}};
  }
};

struct AddAndNorm : torch::autograd::Function<AddAndNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_TD,
                               const at::Tensor& delta_TD, const at::Tensor& weight_D, double eps) {
    const auto rows = kernels::rms_norm(x_TD, delta_TD, weight_D, eps);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({rows.h_TD, weight_D, rows.rstd_T});
    return {rows.h_TD, rows.y_TD};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto dh = present(gradients[0]), dy = present(gradients[1]);
    const auto dx = dy ? kernels::rms_norm_backward(*dy, dh, saved[0], saved[1], saved[2])
                       : dh.value_or(at::Tensor());
    return {dx, dx, {}, {}};
  }
};

}  // namespace

RmsNorm::RmsNorm(std::int64_t size, double eps) : eps_(eps) {
  add_parameter("weight", {size}, weight_);
}

void RmsNorm::finish_loading() { exact_D_ = weight_.to(at::kFloat).contiguous(); }

at::Tensor RmsNorm::forward(const at::Tensor& x) const {
  const auto rows = x.reshape({-1, x.size(-1)});
  return Norm::apply(rows, exact_D_, eps_).view(x.sizes());
}

std::pair<at::Tensor, at::Tensor> RmsNorm::add_and_norm(const at::Tensor& x_TD,
                                                        const at::Tensor& delta_TD) const {
  const auto out = AddAndNorm::apply(x_TD, delta_TD, exact_D_, eps_);
  return {out[0], out[1]};
}

}  // namespace tailor::models
