#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tailor::models::kernels {

/// work(e, begin, length) of every expert e that has rows, row_offsets[e] up to row_offsets[e + 1].
template <class Work>
void each_expert(std::span<const std::int64_t> row_offsets, const Work& work) {
  for (std::size_t e = 0; e + 1 < row_offsets.size(); ++e) {
    const auto begin = row_offsets[e], length = row_offsets[e + 1] - begin;
    if (length > 0) work(e, begin, length);
  }
}

}  // namespace tailor::models::kernels
