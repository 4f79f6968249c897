#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace tailor::models {

class LinearSlot;

/// A parameter of a module tree: its checkpoint key ("model.layers.0.self_attn.q_proj.weight"), the
/// shape that the configuration asks for, and the member that a loader fills; undefined before.
struct NamedParameter {
  std::string name;
  std::vector<std::int64_t> shape;
  at::Tensor* value;
};

struct NamedSlot {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  LinearSlot* slot;
};

/// Base of everything that owns parameters. Children are members of their owner and are registered
/// under the checkpoint's own segments; an empty segment adds nothing to the path, which is how a
/// wrapper stays invisible. Cheaper than torch::nn::Module: no headers of autograd, no copies, no
/// second reference to a child that could go stale.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;  // children point into their owner
  Module& operator=(const Module&) = delete;

  /// Everything below, depth first in order of registration.
  std::vector<NamedParameter> parameters();
  std::vector<NamedSlot> slots();

 protected:
  void add_parameter(std::string segment, std::vector<std::int64_t> shape, at::Tensor& member);
  void add_child(std::string segment, Module& child);

 private:
  friend class LinearSlot;
  using Visit = std::function<void(const std::string& path, Module& module)>;
  virtual void walk(const std::string& path, const Visit& visit);

  struct Child {
    std::string segment;
    Module* module;
  };
  std::vector<NamedParameter> own_;
  std::vector<Child> children_;
};

}  // namespace tailor::models
