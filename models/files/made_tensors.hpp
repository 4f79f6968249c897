#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "models/files/tensor_source.hpp"

namespace tailor::models {

/// A checkpoint that is in no file: each tensor is made when it is read, so that only one need be
/// in memory.
class MadeTensors final : public TensorSource {
 public:
  /// Answers the tensor that the entry declares, in `dtype`; called from any thread.
  using Maker = std::function<at::Tensor(at::ScalarType dtype)>;
  void add(TensorEntry entry, Maker maker);

  const std::vector<TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return makers_.contains(name); }
  at::Tensor read(const std::string& name, at::ScalarType dtype) const override;

 private:
  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string, Maker> makers_;
};

}  // namespace tailor::models
