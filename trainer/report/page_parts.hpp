#pragma once

#include <string_view>

namespace tailor::trainer {

// The files of trainer/report/page/, put into the program when it is built.
extern const std::string_view kPageHtml;  // with {{title}}, {{css}}, {{script}} and {{data}}
extern const std::string_view kPageCss;
extern const std::string_view kPageScript;

}  // namespace tailor::trainer
