#include "models/files/made_tensors.hpp"

#include <utility>

#include "models/files/file_error.hpp"

namespace tailor::models {

void MadeTensors::add(TensorEntry entry, Maker maker) {
  makers_.emplace(entry.name, std::move(maker));
  entries_.push_back(std::move(entry));
}

at::Tensor MadeTensors::read(const std::string& name, at::ScalarType dtype) const {
  const auto found = makers_.find(name);
  if (found == makers_.end()) throw FileError("no tensor " + in_quotes(name));
  return found->second(dtype);
}

}  // namespace tailor::models
