#include "models/layers/mlp.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include "models/kernels/swiglu.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return kernels::swiglu(gate, up);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto saved = ctx->get_saved_variables();
    auto [dgate, dup] = kernels::swiglu_backward(dy[0].contiguous(), saved[0], saved[1]);
    return {dgate, dup};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) { return SwiGlu::apply(gate, up); }

SwiGluMlp::SwiGluMlp(std::int64_t hidden_size, std::int64_t intermediate_size, bool bias)
    : gate_proj_(dense(hidden_size, intermediate_size, bias), {Sharding::Dim::Out}),
      up_proj_(dense(hidden_size, intermediate_size, bias), {Sharding::Dim::Out}),
      down_proj_(dense(intermediate_size, hidden_size, bias), {Sharding::Dim::In}) {
  add_child("gate_proj", gate_proj_);
  add_child("up_proj", up_proj_);
  add_child("down_proj", down_proj_);
}

at::Tensor SwiGluMlp::forward(const at::Tensor& x_TD) const {
  const auto [gate, up] = project(x_TD, gate_proj_, up_proj_);
  return down_proj_(swiglu(gate, up));
}

void SwiGluMlp::finish_loading(kernels::Arithmetic arithmetic) {
  for (const auto* slot : {&gate_proj_, &up_proj_, &down_proj_})
    slot->layer().finish_loading(arithmetic);
}

}  // namespace tailor::models
