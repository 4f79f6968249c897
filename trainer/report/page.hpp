#pragma once

#include <string>
#include <string_view>

namespace tailor::trainer {

/// JSON that may stand in a <script> of HTML: <, > and & are \u003c, \u003e and \u0026, so that no
/// text ends the element or opens a comment in it. The same values come out of a JSON parser.
std::string script_safe(std::string_view json);

/// Text as the content of an element or of a quoted attribute.
std::string html_safe(std::string_view text);

/// The whole page: one file that loads nothing. `data_json` is script_safe() and says what
/// page/page.js reads.
std::string page(std::string_view title, std::string_view data_json);

}  // namespace tailor::trainer
