#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/layers/sharding.hpp"

namespace tailor::models {

class LinearSlot;
class GroupedLinearSlot;

/// A parameter of a module tree: its checkpoint key ("model.layers.0.self_attn.q_proj.weight"), the
/// shape that the configuration asks for, and the member that a loader fills; undefined before.
struct NamedParameter {
  std::string name;
  std::vector<std::int64_t> shape;  // in the checkpoint
  at::Tensor* value;
  std::optional<Slice> slice;           // the part that is held here; absent: all of it
  std::optional<at::ScalarType> dtype;  // what it is read as, whatever the model's weights are
};

/// Of the part of the parameter that is held here.
std::vector<std::int64_t> held_shape(const NamedParameter& parameter);

struct NamedSlot {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  LinearSlot* slot;
};

struct NamedGroupedSlot {
  std::string name;  // of the experts' parent: "model.layers.0.mlp.experts"
  GroupedLinearSlot* slot;
  /// "model.layers.0.mlp.experts.7.gate_proj": what keys call one expert's projection.
  std::string expert_path(std::int64_t expert) const;
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
  std::vector<NamedGroupedSlot> grouped_slots();

 protected:
  void add_parameter(std::string segment, std::vector<std::int64_t> shape, at::Tensor& member,
                     std::optional<Slice> slice = std::nullopt,
                     std::optional<at::ScalarType> dtype = std::nullopt);
  void clear_parameters() { own_.clear(); }
  void clear_children() { children_.clear(); }
  void add_child(std::string segment, Module& child);

 private:
  friend class LinearSlot;
  friend class GroupedLinearSlot;
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
