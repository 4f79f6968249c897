#pragma once

#include <string>
#include <vector>

#include "configs/value.hpp"

namespace tailor::configs {

/// Puts the events of a parser together to a Value and keeps it within the limits of value.hpp.
/// What goes beyond them throws std::length_error.
class TreeBuilder {
 public:
  /// Whether the next scalar is the key of an entry.
  bool wants_key() const { return !open_.empty() && open_.back()->kind == Kind::Map && !has_key_; }
  void key(std::string name, const Mark& mark);
  /// Adds a whole value, with the children it has (the copy that an alias stands for).
  void add(Value value);
  /// Adds an empty list or map that takes what follows, until close().
  void open(Kind kind, const Mark& mark);
  const Value& close();
  int count() const { return count_; }
  Value take() { return std::move(root_); }

 private:
  void charge(const Value& value, std::size_t depth);
  Value& place(Value value);

  Value root_;
  std::vector<Value*> open_;  // each the last child of the one before, so that none moves
  bool has_key_ = false;
  std::string key_;
  Mark key_mark_;
  int count_ = 0;
  std::size_t text_bytes_ = 0;
};

}  // namespace tailor::configs
