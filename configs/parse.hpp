#pragma once

#include <string>

#include "configs/value.hpp"

namespace tailor::configs {

/// The one document in `text`, aliases expanded. Throws ConfigError for what is no YAML, a second
/// document, an explicit tag, a key that is no name, and anything beyond the limits of value.hpp.
/// An empty document is Null. Marks get `source`; only source 0 gets lines and columns.
Value parse_yaml(const std::string& text, const std::string& file, int source = 0);

/// The same for JSON; marks have no lines.
Value parse_json(const std::string& text, const std::string& file);

}  // namespace tailor::configs
