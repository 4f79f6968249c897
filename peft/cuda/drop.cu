#include <c10/util/BFloat16.h>

#include "models/kernels/cuda/each.cuh"
#include "models/kernels/random.hpp"
#include "peft/cuda/launch.hpp"

namespace tailor::peft::cuda {

template <class T>
void drop(T* x, std::int64_t tokens, std::int64_t in, const Mask& mask, CUstream_st* stream) {
  constexpr std::int64_t kBlock = 8;
  const auto first_block = mask.first_feature / kBlock;
  const auto blocks = (mask.first_feature + in + kBlock - 1) / kBlock - first_block;
  models::kernels::cuda::each(tokens * blocks, stream, [=] __device__(std::int64_t at) {
    const auto token = at / blocks, block = first_block + at % blocks;
    const auto counter = (mask.first_token + token) * mask.num_blocks + block;
    const auto words =
        models::kernels::random_words(mask.seed, mask.stream, static_cast<std::uint64_t>(counter));
    const auto before = kBlock * block - mask.first_feature;  // negative in a first, cut block
    for (int i = 0; i < kBlock; ++i) {
      const auto feature = before + i;
      const auto number = words[i / 2] >> (i % 2 == 0 ? 0 : 16) & 0xFFFFU;
      if (feature >= 0 && feature < in && number < mask.threshold) x[token * in + feature] = T(0);
    }
  });
}

template void drop(float*, std::int64_t, std::int64_t, const Mask&, CUstream_st*);
template void drop(double*, std::int64_t, std::int64_t, const Mask&, CUstream_st*);
template void drop(c10::BFloat16*, std::int64_t, std::int64_t, const Mask&, CUstream_st*);

}  // namespace tailor::peft::cuda
