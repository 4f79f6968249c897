// T tokens, D hidden_size.
#include "distributed/tensor_parallel.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <utility>

#include "configs/reader.hpp"
#include "models/layers/decoder.hpp"

namespace tailor::distributed {
namespace {

using models::Sharding;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor summed(Group& group, const at::Tensor& part_TD) {
  auto sum_TD = part_TD.clone(at::MemoryFormat::Contiguous);
  group.all_reduce(sum_TD, Reduce::Sum);
  return sum_TD;
}

/// Shared by graph nodes, which may outlive the region.
struct Ranks final : torch::CustomClassHolder {
  explicit Ranks(std::shared_ptr<Group> g) : group(std::move(g)) {}
  std::shared_ptr<Group> group;
};

Group& ranks_of(AutogradContext* ctx) {
  return *static_cast<const Ranks&>(*ctx->saved_data["ranks"].toCapsule()).group;
}

/// Forward and backward of one edge are each other's mirror.
struct Enter : torch::autograd::Function<Enter> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const c10::intrusive_ptr<Ranks>& ranks, bool scattered) {
    ctx->saved_data["ranks"] = c10::IValue::make_capsule(ranks);
    ctx->saved_data["scattered"] = scattered;
    return scattered ? ranks->group->all_gather(x_TD) : x_TD;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    auto& group = ranks_of(ctx);
    const bool scattered = ctx->saved_data["scattered"].toBool();
    const auto dx = scattered ? group.reduce_scatter(dy[0].contiguous()) : summed(group, dy[0]);
    return {dx, {}, {}};
  }
};

struct Leave : torch::autograd::Function<Leave> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& part_TD,
                            const c10::intrusive_ptr<Ranks>& ranks, bool scattered) {
    ctx->saved_data["ranks"] = c10::IValue::make_capsule(ranks);
    ctx->saved_data["scattered"] = scattered;
    return scattered ? ranks->group->reduce_scatter(part_TD) : summed(*ranks->group, part_TD);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const bool scattered = ctx->saved_data["scattered"].toBool();
    return {scattered ? ranks_of(ctx).all_gather(dy[0].contiguous()) : dy[0], {}, {}};
  }
};

class TensorRegion final : public models::Region {
 public:
  explicit TensorRegion(std::shared_ptr<Group> group)
      : ranks_(c10::make_intrusive<Ranks>(std::move(group))) {}

  std::int64_t size() const override { return ranks_->group->size(); }
  at::Tensor enter(const at::Tensor& x_TD, bool scattered) override {
    return Enter::apply(x_TD, ranks_, scattered);
  }
  at::Tensor leave(const at::Tensor& part_TD, bool scattered) override {
    return Leave::apply(part_TD, ranks_, scattered);
  }

 private:
  c10::intrusive_ptr<Ranks> ranks_;
};

[[noreturn]] void refuse(int count, const std::string& why) {
  throw configs::ConfigError("tensor_parallel_size " + std::to_string(count) + ": " + why);
}

void cut(const models::NamedSlot& seat, int index, int count) {
  const auto dim = seat.slot->cut().dim;
  if (dim == Sharding::Dim::None) return;  // every rank computes it alike
  auto* layer = dynamic_cast<models::Dense*>(&seat.slot->layer());
  if (layer == nullptr) refuse(count, seat.name + " holds more than a plain layer already");
  const auto unit = seat.slot->cut().unit;
  const auto size =
      (dim == Sharding::Dim::Out ? layer->out_features() : layer->in_features()) / unit;
  if (size % count != 0)
    refuse(count, "expected a divisor of the " + std::to_string(size) +
                      (unit > 1 ? " heads of " : " features of ") + seat.name);
  layer->shard({dim, index, count});
}

}  // namespace

void cut_for_tensor_parallel(models::CausalLM& model, int index, int count) {
  if (count == 1) return;
  auto* decoder = model.decoder();
  if (decoder == nullptr) refuse(count, "a " + model.shape().model_type + " cannot be cut");
  const auto vocab_size = model.shape().vocab_size;
  if (vocab_size % count != 0)
    refuse(count, "expected a divisor of vocab_size = " + std::to_string(vocab_size));
  decoder->embed_tokens().shard(index, count);
  for (const auto& seat : model.slots()) cut(seat, index, count);
}

std::shared_ptr<models::Region> make_tensor_region(std::shared_ptr<Group> group) {
  return std::make_shared<TensorRegion>(std::move(group));
}

}  // namespace tailor::distributed
