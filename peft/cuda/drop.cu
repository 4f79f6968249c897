#include <c10/util/BFloat16.h>

#include "models/kernels/cuda/each.cuh"
#include "peft/cuda/launch.hpp"

namespace tailor::peft::cuda {

template <class T>
void drop(T* x, std::int64_t tokens, std::int64_t in, const DropoutMask& mask,
          CUstream_st* stream) {
  const auto blocks = mask.blocks_of(in);
  models::kernels::cuda::each(tokens * blocks, stream, [=] __device__(std::int64_t at) {
    const auto token = at / blocks, block = mask.first_block() + at % blocks;
    const auto words = mask.words(token, block);
    for (int i = 0; i < DropoutMask::kBlock; ++i) {
      const auto column = mask.column_of(block) + i;
      if (column >= 0 && column < in && mask.drops(words, i)) x[token * in + column] = T(0);
    }
  });
}

template void drop(float*, std::int64_t, std::int64_t, const DropoutMask&, CUstream_st*);
template void drop(double*, std::int64_t, std::int64_t, const DropoutMask&, CUstream_st*);
template void drop(c10::BFloat16*, std::int64_t, std::int64_t, const DropoutMask&, CUstream_st*);

}  // namespace tailor::peft::cuda
