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

template <class T>
void drop_rows(T* x, std::int64_t begin, std::int64_t end, std::int64_t in,
               const Dropout& dropout) {
  const auto threshold = static_cast<std::uint32_t>(std::ldexp(dropout.p, 32));  // p < 1
  const std::int64_t num_blocks = (in + 3) / 4;  // a draw has four words, one a feature
  for (std::int64_t token = begin; token < end; ++token) {
    const auto first = static_cast<std::uint64_t>((dropout.first_token + token) * num_blocks);
    T* const row = x + token * in;
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      const auto words = models::kernels::random_words(dropout.seed, dropout.stream,
                                                       first + static_cast<std::uint64_t>(block));
      const auto width = static_cast<std::size_t>(std::min<std::int64_t>(4, in - 4 * block));
      for (std::size_t i = 0; i < width; ++i)
        if (words[i] < threshold) row[4 * block + static_cast<std::int64_t>(i)] = T(0);
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
