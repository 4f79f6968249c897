#include "models/files/tensor_source.hpp"

#include "models/files/file_error.hpp"

namespace tailor::models {

at::Tensor TensorSource::read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                                    std::int64_t begin, std::int64_t length) const {
  const at::Tensor whole = read(name, dtype);
  const TensorEntry entry{.name = name, .dtype = {}, .shape = whole.sizes().vec(), .num_bytes = 0};
  check_slice(entry, dim, begin, length, "read_slice");
  return whole.narrow(dim, begin, length).clone(at::MemoryFormat::Contiguous);
}

void check_slice(const TensorEntry& entry, std::int64_t dim, std::int64_t begin,
                 std::int64_t length, const std::string& file) {
  const auto rank = static_cast<std::int64_t>(entry.shape.size());
  const bool fits = dim >= 0 && dim < rank && begin >= 0 && length >= 0 &&
                    begin <= entry.shape[static_cast<std::size_t>(dim)] - length;
  if (fits) return;
  throw FileError(file + ": tensor " + in_quotes(entry.name) + ": no entries " +
                  std::to_string(begin) + " to " + std::to_string(begin + length) +
                  " in dimension " + std::to_string(dim) + " of shape " + shape_text(entry.shape));
}

}  // namespace tailor::models
