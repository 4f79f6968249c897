#pragma once

#include <optional>
#include <string>

namespace tailor::trainer::plan {

/// "80GB", "80 GiB", "1.5TB" in bytes; nothing where the text is no positive size with a unit.
std::optional<double> parse_size(const std::string& text);

/// "450GB/s", "400Gb/s" (bits), "0.9TB/s" in bytes a second; nothing where the text is none.
std::optional<double> parse_bandwidth(const std::string& text);

std::string size_text(double bytes);       // "29.4 GB"
std::string seconds_text(double seconds);  // "1.42 s", "310 us"
std::string share_text(double share);      // "12.5 %"
std::string count_text(double number);     // "30.53 B", "1.026 T"

}  // namespace tailor::trainer::plan
