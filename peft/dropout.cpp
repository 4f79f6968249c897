#include "peft/dropout.hpp"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "models/kernels/random.hpp"

namespace tailor::peft {
namespace {

/// Features a draw: its four words as eight numbers of 16 bits, since p in steps of 2^-16 is fine
/// enough and drawing is what costs.
constexpr std::int64_t kBlock = 8;

template <class T>
void drop_rows(T* x, std::int64_t begin, std::int64_t end, std::int64_t in,
               const Dropout& dropout) {
  const auto threshold = static_cast<std::uint32_t>(std::lround(std::ldexp(dropout.p, 16)));
  const std::int64_t all = dropout.num_features > 0 ? dropout.num_features : in;
  const std::int64_t num_blocks = (all + kBlock - 1) / kBlock;
  const std::int64_t first_block = dropout.first_feature / kBlock;
  const std::int64_t end_block = (dropout.first_feature + in + kBlock - 1) / kBlock;
  for (std::int64_t token = begin; token < end; ++token) {
    const auto first = static_cast<std::uint64_t>((dropout.first_token + token) * num_blocks);
    for (std::int64_t block = first_block; block < end_block; ++block) {
      const auto words = models::kernels::random_words(dropout.seed, dropout.stream,
                                                       first + static_cast<std::uint64_t>(block));
      const auto before = kBlock * block - dropout.first_feature;  // negative in a first, cut block
      T* const features = x + token * in + before;
      const auto width = std::min(kBlock, in - before);
      for (std::int64_t i = std::max<std::int64_t>(0, -before); i < width; ++i) {
        const auto number =
            words[static_cast<std::size_t>(i / 2)] >> (i % 2 == 0 ? 0 : 16) & 0xFFFF;
        features[i] = number < threshold ? T(0) : features[i];
      }
    }
  }
}

template <class T>
void drop_all(at::Tensor& x_TI, const Dropout& dropout) {
  auto* const x = x_TI.data_ptr<T>();
  const auto in = x_TI.size(1);
  at::parallel_for(0, x_TI.size(0), /*grain_size=*/16, [&](std::int64_t begin, std::int64_t end) {
    drop_rows(x, begin, end, in, dropout);
  });
}

}  // namespace

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
