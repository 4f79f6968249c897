#include "configs/tree_builder.hpp"

#include <stdexcept>
#include <utility>

namespace tailor::configs {

void TreeBuilder::key(std::string name, const Mark& mark) {
  key_ = std::move(name);
  key_mark_ = mark;
  has_key_ = true;
}

/// Counts text too: a few short aliases of a long text unfold as far as many values do.
void TreeBuilder::charge(const Value& value, std::size_t depth) {
  constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;
  if (depth > kMaxDepth)
    throw std::length_error("nested deeper than " + std::to_string(kMaxDepth) + " levels");
  if (++count_ > kMaxValues)
    throw std::length_error("more than " + std::to_string(kMaxValues) + " values");
  text_bytes_ += value.text.size() + value.key.size();
  if (text_bytes_ > kMaxTextBytes) throw std::length_error("more than 64 MiB of text");
  for (const auto& child : value.children) charge(child, depth + 1);
}

Value& TreeBuilder::place(Value value) {
  value.key = std::exchange(key_, {});
  value.key_mark = key_mark_;
  has_key_ = false;
  charge(value, open_.size() + 1);
  auto& seat = open_.empty() ? root_ : open_.back()->children.emplace_back();
  seat = std::move(value);
  return seat;
}

void TreeBuilder::add(Value value) { place(std::move(value)); }

void TreeBuilder::open(Kind kind, const Mark& mark) {
  open_.push_back(&place({.kind = kind, .mark = mark}));
}

const Value& TreeBuilder::close() {
  const auto& closed = *open_.back();
  open_.pop_back();
  return closed;
}

}  // namespace tailor::configs
