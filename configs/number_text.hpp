#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "configs/reader.hpp"
#include "configs/value.hpp"

namespace tailor::configs {

/// A scalar that is written as an integer or a number and fits; else nothing. Quotes make text.
std::optional<std::int64_t> integer_of(const Value& value);
std::optional<double> number_of(const Value& value);
bool within(double number, const Range& range);

/// "expected a number above 0 and of at most 1".
std::string expected_number(const Range& range);

}  // namespace tailor::configs
