// Builds without CUDA: any device, slowly.
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>

#include "peft/dropout.hpp"

namespace tailor::peft {

void drop_on_device_(at::Tensor& x_TI, const Dropout& dropout) {
  auto kept_TI = at::ones(x_TI.sizes(), at::kFloat);
  drop_(kept_TI, dropout);
  x_TI.masked_fill_(kept_TI.eq(0).to(x_TI.device()), 0);
}

}  // namespace tailor::peft
