#include "models/files/tensor_source.hpp"

#include "models/files/file_error.hpp"

namespace tailor::models {

at::Tensor TensorSource::read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                                    std::int64_t begin, std::int64_t length) const {
  return read_part(name, dtype, {{dim, begin, length}});
}

at::Tensor TensorSource::read_part(const std::string& name, at::ScalarType dtype,
                                   const std::vector<TensorRange>& ranges) const {
  at::Tensor part = read(name, dtype);
  const TensorEntry entry{.name = name, .dtype = {}, .shape = part.sizes().vec(), .num_bytes = 0};
  for (const auto& range : ranges) {
    check_slice(entry, range.dim, range.begin, range.length, "read_part");
    part = part.narrow(range.dim, range.begin, range.length);
  }
  return part.clone(at::MemoryFormat::Contiguous);
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
