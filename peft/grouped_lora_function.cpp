// M rows of all experts, I in, O out, E experts, R rank of one projection, S ranks of all, stacked.
#include "peft/grouped_lora_function.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "models/kernels/grouped_gemm.hpp"
#include "peft/grouped_branches.hpp"

namespace tailor::peft {
namespace {

using models::kernels::Weight;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What backward needs besides the factors.
struct Projection {
  std::span<const Weight> weights;
  double scale;
  std::int64_t begin;  // its columns of h
};
struct Plan final : torch::CustomClassHolder {
  std::vector<std::int64_t> offsets;
  std::vector<Projection> items;
  std::int64_t ranks = 0;  // S
};

c10::intrusive_ptr<Plan> describe(std::span<const std::int64_t> row_offsets,
                                  std::span<const GroupedLoraOperands> operands) {
  auto plan = c10::make_intrusive<Plan>();
  plan->offsets.assign(row_offsets.begin(), row_offsets.end());
  for (const auto& operand : operands) {
    plan->items.push_back({operand.weights, operand.scale, plan->ranks});
    plan->ranks += operand.A.size(-2);
  }
  return plan;
}

std::vector<at::Tensor> forward(const at::Tensor& x_MI,
                                std::span<const GroupedLoraOperands> operands, const Plan& plan,
                                at::Tensor& h_MS) {
  std::vector<at::Tensor> y;
  std::vector<Branch> branches;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto& [weights, A, B, scale] = operands[i];
    y.push_back(models::kernels::grouped_forward(x_MI, plan.offsets, weights));
    branches.push_back({A, B, scale, plan.items[i].begin});
  }
  h_MS = at::empty({x_MI.size(0), plan.ranks}, x_MI.options().dtype(at::kFloat));
  add_branches_(x_MI, plan.offsets, branches, h_MS, y);
  return y;
}

struct GroupedLoraFunction : torch::autograd::Function<GroupedLoraFunction> {
  // `factors` is A_1, A_2, ..., B_1, B_2, ...: inside `operands` autograd would not see them.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_MI, at::TensorList factors,
                               std::span<const std::int64_t> row_offsets,
                               std::span<const GroupedLoraOperands> operands) {
    auto plan = describe(row_offsets, operands);
    at::Tensor h_MS;
    auto y = peft::forward(x_MI, operands, *plan, h_MS);
    variable_list saved{x_MI, h_MS};
    saved.insert(saved.end(), factors.begin(), factors.end());
    ctx->set_materialize_grads(false);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["plan"] = c10::IValue::make_capsule(std::move(plan));
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& given) {
    const auto saved = ctx->get_saved_variables();
    const auto &x_MI = saved[0], &h_MS = saved[1];
    const auto capsule = ctx->saved_data["plan"].toCapsule();
    const auto& plan = static_cast<const Plan&>(*capsule);
    const auto n = plan.items.size();
    std::vector<Branch> branches;
    std::vector<at::Tensor> dy;
    at::Tensor dx_MI;
    for (std::size_t i = 0; i < n; ++i) {
      const auto& item = plan.items[i];
      branches.push_back({saved[2 + i], saved[2 + n + i], item.scale, item.begin});
      dy.push_back(given[i].defined() ? given[i].contiguous() : at::Tensor());  // perhaps expanded
      if (ctx->needs_input_grad(0) && dy.back().defined())
        models::kernels::grouped_backward_(dx_MI, dy.back(), plan.offsets, item.weights);
    }
    auto dh_MS = at::empty_like(h_MS);
    lower_branches_(plan.offsets, branches, dy, dh_MS, dx_MI);

    variable_list gradients(3 + 2 * n);  // x, A..., B..., and none for the last two arguments
    gradients[0] = dx_MI;
    std::vector<FactorSum> sums;
    for (std::size_t i = 0; i < n; ++i) {
      if (!dy[i].defined()) continue;
      const auto& [A, B, scale, begin] = branches[i];
      if (ctx->needs_input_grad(1 + i))
        sums.push_back({gradients[1 + i] = at::zeros_like(A), true, dh_MS, begin, x_MI, 1.0});
      if (ctx->needs_input_grad(1 + n + i))
        sums.push_back(
            {gradients[1 + n + i] = at::zeros_like(B), false, h_MS, begin, dy[i], scale});
    }
    add_sums_(plan.offsets, sums);
    return gradients;
  }
};

void check(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
           std::span<const GroupedLoraOperands> operands) {
  TORCH_CHECK_VALUE(x_MI.dim() == 2 && x_MI.is_contiguous() && row_offsets.size() > 1 &&
                        row_offsets.front() == 0 && row_offsets.back() == x_MI.size(0),
                    "grouped_lora: x must be contiguous (M, I) with offsets from 0 to M, is ",
                    x_MI.sizes());
  const auto num_experts = static_cast<std::int64_t>(row_offsets.size()) - 1;
  for (const auto& [weights, A, B, scale] : operands) {
    const auto fits = [&](const at::Tensor& factor) {
      return (factor.dim() == 2 || (factor.dim() == 3 && factor.size(0) == num_experts)) &&
             factor.is_contiguous();
    };
    TORCH_CHECK_VALUE(static_cast<std::int64_t>(weights.size()) == num_experts && fits(A) &&
                          fits(B) && A.size(-1) == x_MI.size(1) &&
                          weights.front().in_features() == x_MI.size(1) &&
                          B.size(-2) == weights.front().out_features() && A.size(-2) == B.size(-1),
                      "grouped_lora: x ", x_MI.sizes(), ", ", weights.size(), " weights, A ",
                      A.sizes(), " and B ", B.sizes(), " do not fit ", num_experts, " experts");
  }
}

}  // namespace

std::vector<at::Tensor> grouped_lora(const at::Tensor& x_MI,
                                     std::span<const std::int64_t> row_offsets,
                                     std::span<const GroupedLoraOperands> layers) {
  check(x_MI, row_offsets, layers);
  if (!at::GradMode::is_enabled()) {
    at::Tensor h_MS;
    return forward(x_MI, layers, *describe(row_offsets, layers), h_MS);
  }
  std::vector<at::Tensor> factors;
  for (const auto& layer : layers) factors.push_back(layer.A);
  for (const auto& layer : layers) factors.push_back(layer.B);
  return GroupedLoraFunction::apply(x_MI, at::TensorList(factors), row_offsets, layers);
}

std::vector<at::Tensor> grouped_lora_reference(const at::Tensor& x_MI,
                                               std::span<const std::int64_t> row_offsets,
                                               std::span<const GroupedLoraOperands> layers) {
  const auto of = [](const at::Tensor& factor, std::int64_t e) {
    return (factor.dim() == 3 ? factor.select(0, e) : factor).to(at::kDouble);
  };
  std::vector<at::Tensor> y;
  for (const auto& layer : layers) {
    std::vector<at::Tensor> parts;
    for (std::size_t e = 0; e + 1 < row_offsets.size(); ++e) {
      const auto rows =
          x_MI.narrow(0, row_offsets[e], row_offsets[e + 1] - row_offsets[e]).to(at::kDouble);
      const auto expert = static_cast<std::int64_t>(e);
      const auto delta = at::linear(at::linear(rows, of(layer.A, expert)), of(layer.B, expert));
      const auto base = at::linear(rows, layer.weights[e].stored().to(at::kDouble));
      parts.push_back(base + layer.scale * delta);
    }
    y.push_back(at::cat(parts));
  }
  return y;
}

}  // namespace tailor::peft
