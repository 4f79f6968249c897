// Builds with CUDA: masks are drawn where they are used.
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "peft/cuda/launch.hpp"
#include "peft/dropout.hpp"

namespace tailor::peft {

void drop_on_device_(at::Tensor& x_TI, const Dropout& dropout) {
  TORCH_CHECK_VALUE(x_TI.is_cuda(), "drop_: no kernel for ", x_TI.device());
  const auto tokens = x_TI.size(0), in = x_TI.size(1);
  const auto mask = mask_of(dropout, in);
  const c10::cuda::CUDAGuard guard(x_TI.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  switch (x_TI.scalar_type()) {
    case at::kFloat:
      cuda::drop(x_TI.mutable_data_ptr<float>(), tokens, in, mask, stream);
      break;
    case at::kDouble:
      cuda::drop(x_TI.mutable_data_ptr<double>(), tokens, in, mask, stream);
      break;
    case at::kBFloat16:
      cuda::drop(x_TI.mutable_data_ptr<c10::BFloat16>(), tokens, in, mask, stream);
      break;
    default:
      TORCH_CHECK_VALUE(false, "drop_: no kernel for ", x_TI.scalar_type());
  }
  C10_CUDA_CHECK(cudaGetLastError());
}

}  // namespace tailor::peft
