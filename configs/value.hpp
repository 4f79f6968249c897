#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tailor::configs {

/// Where a value stands. Ordered as the user reads: the file first, then the assignments of --set.
struct Mark {
  int source = 0;            // 0: the file; n: the n-th assignment
  int line = 0, column = 0;  // from 1; 0: unknown (JSON)
  int order = 0;             // number of the value within its source

  auto operator<=>(const Mark&) const = default;
};

enum class Kind { Null, Boolean, Number, Text, List, Map };

/// A YAML or JSON value, free of the library that parsed it. A map keeps its entries in file order,
/// those of a key given twice too.
struct Value {
  Kind kind = Kind::Null;
  bool quoted = false;  // a scalar in quotes or a block scalar: always Text
  Mark mark{};
  std::string text{};  // of a scalar, as written
  std::string key{};   // as the entry of a map
  Mark key_mark{};
  std::vector<Value> children{};

  const Value* find(std::string_view name) const;  // the first entry of that key, or null
};

/// What stops documents that unfold to more than memory holds, or nest deeper than the stack.
inline constexpr int kMaxValues = 100'000;
inline constexpr int kMaxDepth = 64;

/// Kind of a plain scalar by YAML 1.2's core schema, made stricter: a number has neither leading
/// zeros nor another base than ten, and NaN and infinities are text.
Kind kind_of_plain(std::string_view text);

bool is_integer(std::string_view text);

/// Text for a message: control characters escaped, cut after 60 bytes.
std::string shown(std::string_view text);

/// ', found "x"', ', found a list' and so on.
std::string found(const Value& value);

}  // namespace tailor::configs
