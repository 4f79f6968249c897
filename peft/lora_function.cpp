// T tokens, I in, O out, R rank of one layer, S ranks of all layers, stacked.
#include "peft/lora_function.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "models/kernels/add_product.hpp"
#include "models/kernels/matvec.hpp"

namespace tailor::peft {
namespace {

using models::kernels::add_product_;
using models::kernels::LowRankTerm;
using models::kernels::matvec;
using models::kernels::takes_matvec;
using models::kernels::Weight;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What backward needs of a layer besides its factors.
struct Layer {
  const Weight* weight;
  double scale;              // with the 1 / (1 - p) of dropout
  std::int64_t begin, rank;  // its columns of h
  std::optional<Dropout> dropout;
};
struct Layers final : torch::CustomClassHolder {
  std::vector<Layer> items;
  bool drop = false;  // any layer drops
};

c10::intrusive_ptr<Layers> describe(std::span<const LoraOperands> operands) {
  auto layers = c10::make_intrusive<Layers>();
  std::int64_t begin = 0;
  for (const auto& operand : operands) {
    const auto rank = operand.A_RI.size(0);
    const auto keep = operand.dropout ? 1.0 - operand.dropout->p : 1.0;
    layers->items.push_back({operand.weight, operand.scale / keep, begin, rank, operand.dropout});
    layers->drop = layers->drop || operand.dropout.has_value();
    begin += rank;
  }
  return layers;
}

/// [A_1; A_2; ...] in the dtype of the activations.
at::Tensor stacked(const std::vector<at::Tensor>& A, at::ScalarType dtype) {
  return (A.size() == 1 ? A.front() : at::cat(A)).to(dtype);
}

at::Tensor dropped(const at::Tensor& x_TI, const std::optional<Dropout>& dropout) {
  if (!dropout) return x_TI;
  auto kept_TI = x_TI.clone(at::MemoryFormat::Contiguous);
  drop_(kept_TI, *dropout);
  return kept_TI;
}

/// h (T, S): the columns of layer i are drop_i(x) A_i^T.
at::Tensor down(const at::Tensor& x_TI, const std::vector<at::Tensor>& A, const Layers& layers) {
  const auto dtype = x_TI.scalar_type();
  const auto ranks = layers.items.back().begin + layers.items.back().rank;
  if (!layers.drop && takes_matvec(x_TI)) return matvec(x_TI, stacked(A, dtype));
  auto h_TS = at::empty({x_TI.size(0), ranks}, x_TI.options());
  if (!layers.drop) {
    add_product_(h_TS, x_TI, stacked(A, dtype).t(), 0.0);
    return h_TS;
  }
  for (std::size_t i = 0; i < A.size(); ++i) {
    const auto& layer = layers.items[i];
    auto h_TR = h_TS.narrow(1, layer.begin, layer.rank);
    add_product_(h_TR, dropped(x_TI, layer.dropout), A[i].to(dtype).t(), 0.0);
  }
  return h_TS;
}

std::vector<at::Tensor> forward(const at::Tensor& x_TI, std::span<const LoraOperands> operands,
                                const Layers& layers, const std::vector<at::Tensor>& known,
                                at::Tensor& h_TS) {
  std::vector<at::Tensor> A, y;
  for (const auto& operand : operands) A.push_back(operand.A_RI);
  h_TS = down(x_TI, A, layers);
  if (!known.empty()) return known;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto& layer = layers.items[i];
    const LowRankTerm branch{h_TS.narrow(1, layer.begin, layer.rank),
                             operands[i].B_OR.to(x_TI.scalar_type()).t(), layer.scale};
    y.push_back(layer.weight->forward(x_TI, operands[i].bias_O, &branch));
  }
  return y;
}

/// scale a^T b, float32, of a (T, M) and b (T, N), M the thin one. libtorch has no product of
/// bfloat16 with a float32 result on the CPU, so bfloat16 sums are cut into blocks: their roundings
/// are independent, and the sum over many tokens cannot stall.
at::Tensor sum_over_tokens(const at::Tensor& a_TM, const at::Tensor& b_TN, double scale) {
  if (a_TM.scalar_type() == at::kFloat) {
    auto sum_MN = at::empty({a_TM.size(1), b_TN.size(1)}, a_TM.options());
    add_product_(sum_MN, a_TM.t(), b_TN, 0.0, scale);
    return sum_MN;
  }
  constexpr std::int64_t kBlock = 512;  // measured: 1.3 times the time of one product, 256: 2 times
  auto sum_MN = at::zeros({a_TM.size(1), b_TN.size(1)}, a_TM.options().dtype(at::kFloat));
  for (std::int64_t begin = 0; begin < a_TM.size(0); begin += kBlock) {
    const auto length = std::min(kBlock, a_TM.size(0) - begin);
    sum_MN.add_(a_TM.narrow(0, begin, length).t().mm(b_TN.narrow(0, begin, length)), scale);
  }
  return sum_MN;
}

struct LoraLinearFunction : torch::autograd::Function<LoraLinearFunction> {
  // `factors` is A_1, A_2, ..., B_1, B_2, ... as a TensorList: inside `operands` autograd would not
  // see them and no gradient would flow, without a word.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_TI, at::TensorList factors,
                               std::span<const LoraOperands> operands,
                               const std::vector<at::Tensor>* known) {
    auto layers = describe(operands);
    at::Tensor h_TS;
    auto y = peft::forward(x_TI, operands, *layers, *known, h_TS);
    variable_list saved{x_TI, h_TS};
    saved.insert(saved.end(), factors.begin(), factors.end());
    ctx->set_materialize_grads(false);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["layers"] = c10::IValue::make_capsule(std::move(layers));
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list dy) {
    const auto saved = ctx->get_saved_variables();
    const auto &x_TI = saved[0], &h_TS = saved[1];
    const auto capsule = ctx->saved_data["layers"].toCapsule();
    const auto& layers = static_cast<const Layers&>(*capsule);
    const auto num_layers = layers.items.size();
    const std::vector<at::Tensor> A(saved.begin() + 2,
                                    saved.begin() + 2 + static_cast<std::ptrdiff_t>(num_layers));

    variable_list gradients(3 + 2 * num_layers);  // x, A..., B..., none for operands and known
    auto dh_TS = at::empty(h_TS.sizes(), h_TS.options());
    for (std::size_t i = 0; i < num_layers; ++i) {
      const auto& layer = layers.items[i];
      auto dh_TR = dh_TS.narrow(1, layer.begin, layer.rank);
      if (!dy[i].defined()) {
        dh_TR.zero_();
        continue;
      }
      dy[i] = dy[i].contiguous();  // may be an expanded scalar
      const auto& B_OR = saved[2 + num_layers + i];
      add_product_(dh_TR, dy[i], B_OR.to(dy[i].scalar_type()), 0.0, layer.scale);
      if (ctx->needs_input_grad(1 + num_layers + i))
        gradients[1 + num_layers + i] =
            sum_over_tokens(h_TS.narrow(1, layer.begin, layer.rank), dy[i], layer.scale).t();
    }
    if (ctx->needs_input_grad(0)) gradients[0] = input_gradient(dy, dh_TS, A, layers);
    down_gradients(ctx, x_TI, dh_TS, layers, gradients);
    return gradients;
  }

  /// dx (T, I) = sum dy_i W_i + dh A, the branches with the last of the products or, where inputs
  /// were dropped, each with its mask.
  static at::Tensor input_gradient(const variable_list& dy, const at::Tensor& dh_TS,
                                   const std::vector<at::Tensor>& A, const Layers& layers) {
    auto count = dy.size();
    while (count > 0 && !dy[count - 1].defined()) --count;
    at::Tensor dx_TI;
    if (count == 0) return dx_TI;
    std::optional<LowRankTerm> branches;
    if (!layers.drop) branches = {dh_TS, stacked(A, dh_TS.scalar_type()), 1.0};
    for (std::size_t i = 0; i < count; ++i)
      if (dy[i].defined())
        layers.items[i].weight->backward_(dx_TI, dy[i],
                                          i + 1 == count && branches ? &*branches : nullptr);
    if (!layers.drop) return dx_TI;
    for (std::size_t i = 0; i < A.size(); ++i) {
      const auto& layer = layers.items[i];
      auto part_TI = at::empty_like(dx_TI);
      add_product_(part_TI, dh_TS.narrow(1, layer.begin, layer.rank), A[i].to(dx_TI.scalar_type()),
                   0.0);
      if (layer.dropout) drop_(part_TI, *layer.dropout);
      dx_TI.add_(part_TI);
    }
    return dx_TI;
  }

  static void down_gradients(AutogradContext* ctx, const at::Tensor& x_TI, const at::Tensor& dh_TS,
                             const Layers& layers, variable_list& gradients) {
    at::Tensor dA_SI;
    if (!layers.drop) dA_SI = sum_over_tokens(dh_TS, x_TI, 1.0);
    for (std::size_t i = 0; i < layers.items.size(); ++i) {
      const auto& layer = layers.items[i];
      if (!ctx->needs_input_grad(1 + i)) continue;
      gradients[1 + i] = dA_SI.defined() ? dA_SI.narrow(0, layer.begin, layer.rank)
                                         : sum_over_tokens(dh_TS.narrow(1, layer.begin, layer.rank),
                                                           dropped(x_TI, layer.dropout), 1.0);
    }
  }
};

void check(const at::Tensor& x_TI, std::span<const LoraOperands> operands) {
  TORCH_CHECK_VALUE(x_TI.dim() == 2, "lora_linear: x must be (T, I), is ", x_TI.sizes());
  TORCH_CHECK_VALUE(!operands.empty(), "lora_linear: no layers");
  for (const auto& [weight, bias, A_RI, B_OR, scale, dropout] : operands) {
    TORCH_CHECK_VALUE(weight->in_features() == x_TI.size(1) && A_RI.size(1) == x_TI.size(1) &&
                          B_OR.size(0) == weight->out_features() && A_RI.size(0) == B_OR.size(1),
                      "lora_linear: x ", x_TI.sizes(), ", W ", weight->stored().sizes(), ", A ",
                      A_RI.sizes(), " and B ", B_OR.sizes(), " do not fit");
    TORCH_CHECK_VALUE(!weight->stored().requires_grad(),
                      "lora_linear: the base weight is not frozen");
  }
}

std::vector<at::Tensor> apply(const at::Tensor& x_TI, std::span<const LoraOperands> layers,
                              const std::vector<at::Tensor>& known) {
  std::vector<at::Tensor> factors;
  for (const auto& layer : layers) factors.push_back(layer.A_RI);
  for (const auto& layer : layers) factors.push_back(layer.B_OR);
  return LoraLinearFunction::apply(x_TI, at::TensorList(factors), layers, &known);
}

}  // namespace

std::vector<at::Tensor> lora_linear(const at::Tensor& x_TI, std::span<const LoraOperands> layers) {
  check(x_TI, layers);
  if (at::GradMode::is_enabled()) return apply(x_TI, layers, {});
  at::Tensor h_TS;
  return forward(x_TI, layers, *describe(layers), {}, h_TS);
}

std::vector<at::Tensor> lora_linear_known(const at::Tensor& x_TI,
                                          std::span<const LoraOperands> layers,
                                          std::vector<at::Tensor> y) {
  check(x_TI, layers);
  TORCH_CHECK_VALUE(y.size() == layers.size(), "lora_linear_known: ", y.size(), " answers of ",
                    layers.size(), " layers");
  for (std::size_t i = 0; i < y.size(); ++i)
    TORCH_CHECK_VALUE(y[i].dim() == 2 && y[i].size(0) == x_TI.size(0) &&
                          y[i].size(1) == layers[i].weight->out_features(),
                      "lora_linear_known: an answer is ", y[i].sizes(), " for x ", x_TI.sizes());
  return at::GradMode::is_enabled() ? apply(x_TI, layers, y) : y;
}

std::vector<at::Tensor> lora_linear_reference(const at::Tensor& x_TI,
                                              std::span<const LoraOperands> layers) {
  const auto exact = [](const at::Tensor& t) { return t.to(at::kDouble); };
  std::vector<at::Tensor> y;
  for (const auto& layer : layers) {
    auto input = exact(x_TI);
    if (layer.dropout) {
      auto mask = at::ones_like(input);
      drop_(mask, *layer.dropout);
      input = input * mask / (1.0 - layer.dropout->p);
    }
    const auto delta = at::linear(at::linear(input, exact(layer.A_RI)), exact(layer.B_OR));
    auto base = at::linear(exact(x_TI), exact(layer.weight->stored()));
    if (layer.bias_O) base = base + exact(*layer.bias_O);
    y.push_back(base + layer.scale * delta);
  }
  return y;
}

}  // namespace tailor::peft
