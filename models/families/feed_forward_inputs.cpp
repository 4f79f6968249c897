#include "models/families/feed_forward_inputs.hpp"

#include <c10/util/Exception.h>

#include <utility>

#include "models/layers/linear_wrapper.hpp"

namespace tailor::models {
namespace {

/// Sits in the seat of a layer for one forward and keeps what came in.
class Listener final : public LinearWrapper {
 public:
  Listener(std::shared_ptr<LinearBase> inner, at::Tensor& heard)
      : LinearWrapper(std::move(inner)), heard_(heard) {}

  at::Tensor forward(const at::Tensor& x_TI) override {
    heard_ = x_TI.to(at::kFloat);
    return inner()->forward(x_TI);
  }

 private:
  at::Tensor& heard_;
};

/// Listeners in all seats, taken out again whatever happens.
class Listening {
 public:
  explicit Listening(CausalLM& model) {
    for (const auto& [name, slot] : model.slots())
      if (name.ends_with(".mlp.gate_proj")) slots_.push_back(slot);
    heard_.resize(slots_.size());
    for (std::size_t i = 0; i < slots_.size(); ++i)
      slots_[i]->rewrap([&](std::shared_ptr<LinearBase> layer) {
        return listeners_.emplace_back(std::make_shared<Listener>(std::move(layer), heard_[i]));
      });
  }
  ~Listening() {
    for (std::size_t i = 0; i < slots_.size(); ++i)
      slots_[i]->rewrap([&](auto) { return listeners_[i]->inner(); });
  }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

  std::vector<at::Tensor>& heard() { return heard_; }

 private:
  std::vector<LinearSlot*> slots_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::vector<at::Tensor> heard_;
};

}  // namespace

std::vector<at::Tensor> feed_forward_inputs(CausalLM& model, const Batch& batch) {
  Listening listening(model);
  const auto expected = model.shape().num_hidden_layers;
  TORCH_CHECK_VALUE(std::ssize(listening.heard()) == expected, "feed_forward_inputs: expected ",
                    expected, " layers with mlp.gate_proj, found ", listening.heard().size());
  model.hidden_states(batch);
  return std::move(listening.heard());
}

}  // namespace tailor::models
