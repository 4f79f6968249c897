#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "models/layers/linear.hpp"

namespace tailor::models {

/// Takes a layer's seat, holds that layer, and is it in all but what forward does. Checkpoint keys
/// do not change.
class LinearWrapper : public LinearBase {
 public:
  explicit LinearWrapper(std::shared_ptr<LinearBase> inner) : inner_(std::move(inner)) {
    add_child("", *inner_);
  }

  at::Tensor forward_known(const at::Tensor& x_TI, at::Tensor y_TO) override {
    return inner_->forward_known(x_TI, std::move(y_TO));
  }
  const kernels::Weight& weight() const final { return inner_->weight(); }
  std::optional<at::Tensor> bias() const final { return inner_->bias(); }
  std::int64_t in_features() const final { return inner_->in_features(); }
  std::int64_t out_features() const final { return inner_->out_features(); }
  Sharding sharding() const final { return inner_->sharding(); }
  void finish_loading(kernels::Arithmetic arithmetic) final { inner_->finish_loading(arithmetic); }

  const std::shared_ptr<LinearBase>& inner() const { return inner_; }

 private:
  std::shared_ptr<LinearBase> inner_;
};

}  // namespace tailor::models
