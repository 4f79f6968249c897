#include "peft/dropout.hpp"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace tailor::peft {
namespace {

template <class T>
void drop_rows(T* x, std::int64_t begin, std::int64_t end, std::int64_t in,
               const DropoutMask& mask) {
  constexpr auto kBlock = DropoutMask::kBlock;
  const auto first_block = mask.first_block(), end_block = first_block + mask.blocks_of(in);
  for (std::int64_t token = begin; token < end; ++token) {
    for (std::int64_t block = first_block; block < end_block; ++block) {
      const auto words = mask.words(token, block);
      const auto column = mask.column_of(block);
      T* const features = x + token * in + column;
      const auto width = std::min(kBlock, in - column);
      for (std::int64_t i = std::max<std::int64_t>(0, -column); i < width; ++i)
        features[i] = mask.drops(words, i) ? T(0) : features[i];
    }
  }
}

template <class T>
void drop_all(at::Tensor& x_TI, const Dropout& dropout) {
  auto* const x = x_TI.data_ptr<T>();
  const auto in = x_TI.size(1);
  const auto mask = mask_of(dropout, in);
  at::parallel_for(0, x_TI.size(0), /*grain_size=*/16, [&](std::int64_t begin, std::int64_t end) {
    drop_rows(x, begin, end, in, mask);
  });
}

}  // namespace

DropoutMask mask_of(const Dropout& dropout, std::int64_t width) {
  const auto all = dropout.num_features > 0 ? dropout.num_features : width;
  return {.seed = dropout.seed,
          .stream = dropout.stream,
          .first_token = dropout.first_token,
          .first_feature = dropout.first_feature,
          .num_blocks = (all + DropoutMask::kBlock - 1) / DropoutMask::kBlock,
          .threshold = static_cast<std::uint32_t>(std::lround(std::ldexp(dropout.p, 16)))};
}

void drop_(at::Tensor& x_TI, const Dropout& dropout) {
  TORCH_CHECK_VALUE(dropout.p >= 0.0 && dropout.p < 1.0, "drop_: p must be in [0, 1), is ",
                    dropout.p);
  TORCH_CHECK_VALUE(x_TI.dim() == 2 && x_TI.is_contiguous(), "drop_: x must be contiguous (T, I)");
  if (!x_TI.is_cpu()) return drop_on_device_(x_TI, dropout);
  switch (x_TI.scalar_type()) {
    case at::kFloat:
      return drop_all<float>(x_TI, dropout);
    case at::kDouble:
      return drop_all<double>(x_TI, dropout);
    case at::kBFloat16:
      return drop_all<at::BFloat16>(x_TI, dropout);
    default:
      TORCH_CHECK_VALUE(false, "drop_: no kernel for ", x_TI.scalar_type());
  }
}

}  // namespace tailor::peft
