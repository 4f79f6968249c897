#include "models/layers/module.hpp"

#include "models/layers/grouped_linear.hpp"
#include "models/layers/linear.hpp"

namespace tailor::models {
namespace {

std::string join(const std::string& path, const std::string& segment) {
  if (path.empty() || segment.empty()) return path + segment;
  return path + '.' + segment;
}

}  // namespace

std::vector<std::int64_t> held_shape(const NamedParameter& parameter) {
  auto shape = parameter.shape;
  if (const auto& slice = parameter.slice)
    shape[static_cast<std::size_t>(slice->dim)] = slice->length;
  return shape;
}

std::string NamedGroupedSlot::expert_path(std::int64_t expert) const {
  return join(join(name, std::to_string(expert)), slot->projection());
}

void Module::add_parameter(std::string segment, std::vector<std::int64_t> shape, at::Tensor& member,
                           std::optional<Slice> slice, std::optional<at::ScalarType> dtype) {
  own_.push_back({std::move(segment), std::move(shape), &member, slice, dtype});
}

void Module::add_child(std::string segment, Module& child) {
  children_.push_back({std::move(segment), &child});
}

void Module::walk(const std::string& path, const Visit& visit) {
  visit(path, *this);
  for (const auto& child : children_) child.module->walk(join(path, child.segment), visit);
}

std::vector<NamedParameter> Module::parameters() {
  std::vector<NamedParameter> out;
  walk("", [&](const std::string& path, Module& module) {
    for (const auto& own : module.own_)
      out.push_back({join(path, own.name), own.shape, own.value, own.slice, own.dtype});
  });
  return out;
}

std::vector<NamedSlot> Module::slots() {
  std::vector<NamedSlot> out;
  walk("", [&](const std::string& path, Module& module) {
    if (auto* slot = dynamic_cast<LinearSlot*>(&module)) out.push_back({path, slot});
  });
  return out;
}

std::vector<NamedGroupedSlot> Module::grouped_slots() {
  std::vector<NamedGroupedSlot> out;
  walk("", [&](const std::string& path, Module& module) {
    if (auto* slot = dynamic_cast<GroupedLinearSlot*>(&module)) out.push_back({path, slot});
  });
  return out;
}

}  // namespace tailor::models
