// T tokens, K of E experts each, D hidden_size; R ranks; N rows sent, M rows received.
#include "distributed/expert_parallel.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>
#include <vector>

#include "models/kernels/matvec.hpp"

namespace tailor::distributed {
namespace {

using models::DispatchedRows;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// One exchange of rows. They arrive as [source][local expert] and are computed as [local
/// expert][source], or as they arrive where every source is a part.
struct Route final : torch::CustomClassHolder {
  std::shared_ptr<Group> group;
  std::vector<std::int64_t> sent, received;  // rows by rank
  at::Tensor order_M;                        // computed row m is received row order[m]; or none
  at::Tensor inverse_M;
};

at::Tensor go(const Route& route, const at::Tensor& rows_ND) {
  const auto received = route.group->all_to_all_v(rows_ND, route.sent, route.received);
  return route.order_M.defined() ? received.index_select(0, route.order_M) : received;
}

at::Tensor come_back(const Route& route, const at::Tensor& rows_MD) {
  const auto rows = route.inverse_M.defined() ? rows_MD.index_select(0, route.inverse_M) : rows_MD;
  return route.group->all_to_all_v(rows, route.received, route.sent);
}

const Route& route_of(AutogradContext* ctx) {
  return static_cast<const Route&>(*ctx->saved_data["route"].toCapsule());
}

struct Go : torch::autograd::Function<Go> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows_ND,
                            const c10::intrusive_ptr<Route>& route) {
    ctx->saved_data["route"] = c10::IValue::make_capsule(route);
    return go(*route, rows_ND);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    return {come_back(route_of(ctx), dy[0]), {}};
  }
};

struct ComeBack : torch::autograd::Function<ComeBack> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows_MD,
                            const c10::intrusive_ptr<Route>& route) {
    ctx->saved_data["route"] = c10::IValue::make_capsule(route);
    return come_back(*route, rows_MD);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    return {go(route_of(ctx), dy[0]), {}};
  }
};

struct Plan {
  DispatchedRows local;  // the permutation of this rank's tokens, sorted by expert
  c10::intrusive_ptr<Route> route;
};

class ExpertParallelExchange final : public models::ExpertExchange {
 public:
  ExpertParallelExchange(std::shared_ptr<Group> group, std::int64_t num_experts)
      : group_(std::move(group)),
        num_experts_(num_experts),
        local_(models::make_local_exchange(num_experts)) {
    TORCH_CHECK_VALUE(num_experts % group_->size() == 0, "expert exchange: ", num_experts,
                      " experts over ", group_->size(), " ranks");
  }

  DispatchedRows dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK) override {
    auto plan = std::make_shared<Plan>();
    plan->local = local_->dispatch(x_TD, ids_TK);
    DispatchedRows out;
    plan->route = make_route(plan->local.parts.front(), x_TD.device(), out.parts);
    out.x_MD = Go::apply(plan->local.x_MD, plan->route);
    out.plan = std::move(plan);
    return out;
  }

  at::Tensor combine(const at::Tensor& out_MD, const at::Tensor& weights_TK,
                     const DispatchedRows& rows) override {
    const auto& plan = *static_cast<const Plan*>(rows.plan.get());
    return local_->combine(ComeBack::apply(out_MD, plan.route), weights_TK, plan.local);
  }

 private:
  std::int64_t held() const { return num_experts_ / group_->size(); }
  std::int64_t first() const { return group_->rank() * held(); }  // of those held here

  /// Gathers how many rows every rank has for every expert; fills the parts of those here. Rows are
  /// in the memory of `device`.
  c10::intrusive_ptr<Route> make_route(const std::vector<std::int64_t>& offsets, at::Device device,
                                       std::vector<std::vector<std::int64_t>>& parts) {
    auto mine = at::empty({1, num_experts_}, at::kLong);
    for (std::int64_t e = 0; e < num_experts_; ++e)
      mine.mutable_data_ptr<std::int64_t>()[e] =
          offsets[static_cast<std::size_t>(e) + 1] - offsets[static_cast<std::size_t>(e)];
    const auto counts_RE = group_->all_gather(mine);
    const auto* count = counts_RE.const_data_ptr<std::int64_t>();

    auto route = c10::make_intrusive<Route>();
    route->group = group_;
    const std::int64_t ranks = group_->size();
    const auto sum = [&](std::int64_t rank, std::int64_t from) {
      std::int64_t total = 0;
      for (std::int64_t e = from; e < from + held(); ++e) total += count[rank * num_experts_ + e];
      return total;
    };
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      route->sent.push_back(sum(group_->rank(), rank * held()));
      route->received.push_back(sum(rank, first()));
    }
    if (comes_in_parts(counts_RE, device))
      by_source(count, parts);
    else
      by_expert(count, *route, device, parts);
    return route;
  }

  /// All ranks decide alike, from all counts.
  static bool comes_in_parts(const at::Tensor& counts_RE, at::Device device) {
    return device.is_cpu() && !at::GradMode::is_enabled() &&
           counts_RE.sum(0).max().item<std::int64_t>() > models::kernels::kMatvecMaxTokens;
  }

  void by_source(const std::int64_t* count, std::vector<std::vector<std::int64_t>>& parts) const {
    const std::int64_t ranks = group_->size();
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      auto& part = parts.emplace_back(1, 0);
      for (auto e = first(); e < first() + held(); ++e)
        part.push_back(part.back() + count[rank * num_experts_ + e]);
    }
  }

  void by_expert(const std::int64_t* count, Route& route, at::Device device,
                 std::vector<std::vector<std::int64_t>>& parts) const {
    const std::int64_t ranks = group_->size();
    std::vector<std::int64_t> begins;  // where the rows of a source begin among the received
    std::int64_t rows = 0;
    for (const auto received : route.received) {
      begins.push_back(rows);
      rows += received;
    }
    route.order_M = at::empty({rows}, at::kLong);
    route.inverse_M = at::empty({rows}, at::kLong);
    auto* order = route.order_M.mutable_data_ptr<std::int64_t>();
    auto* inverse = route.inverse_M.mutable_data_ptr<std::int64_t>();
    std::int64_t at = 0;
    auto& offsets = parts.emplace_back(1, 0);
    for (auto e = first(); e < first() + held(); ++e) {
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        auto& begin = begins[static_cast<std::size_t>(rank)];
        for (std::int64_t i = 0; i < count[rank * num_experts_ + e]; ++i, ++at, ++begin) {
          order[at] = begin;
          inverse[begin] = at;
        }
      }
      offsets.push_back(at);
    }
    route.order_M = route.order_M.to(device);
    route.inverse_M = route.inverse_M.to(device);
  }

  std::shared_ptr<Group> group_;
  std::int64_t num_experts_;
  std::shared_ptr<models::ExpertExchange> local_;
};

}  // namespace

std::shared_ptr<models::ExpertExchange> make_expert_parallel_exchange(std::shared_ptr<Group> group,
                                                                      std::int64_t num_experts) {
  return std::make_shared<ExpertParallelExchange>(std::move(group), num_experts);
}

}  // namespace tailor::distributed
