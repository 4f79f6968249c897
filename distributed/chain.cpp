#include "distributed/chain.hpp"

#include <ATen/core/grad_mode.h>

#include <utility>

namespace tailor::distributed {

bool Chain::advance() {
  const at::NoGradGuard no_grad;
  while (current_ || next_ < steps_.size()) {
    if (!current_) begin_next();
    if (current_ && !current_->advance()) return false;
    current_.reset();
  }
  return true;
}

void Chain::wait() {
  const at::NoGradGuard no_grad;
  while (current_ || next_ < steps_.size()) {
    if (!current_) begin_next();
    if (current_) current_->wait();
    current_.reset();
  }
}

void Chain::begin_next() {
  auto& step = steps_[next_++];
  current_ = step();
}

Pending run(std::vector<Chain::Step> steps) {
  auto work = std::make_unique<Chain>(std::move(steps));
  return work->advance() ? Pending() : Pending(std::move(work));
}

}  // namespace tailor::distributed
