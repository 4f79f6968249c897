#include "trainer/report/page.hpp"

#include <array>
#include <stdexcept>
#include <utility>

#include "trainer/report/page_parts.hpp"

namespace tailor::trainer {
namespace {

template <typename Replacement>
std::string replaced(std::string_view text, Replacement replacement) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const std::string_view instead = replacement(c);
    if (instead.empty()) {
      out += c;
    } else {
      out += instead;
    }
  }
  return out;
}

}  // namespace

std::string script_safe(std::string_view json) {
  return replaced(json, [](char c) {
    return c == '<' ? "\\u003c" : c == '>' ? "\\u003e" : c == '&' ? "\\u0026" : "";
  });
}

std::string html_safe(std::string_view text) {
  return replaced(text, [](char c) {
    return c == '<'    ? "&lt;"
           : c == '>'  ? "&gt;"
           : c == '&'  ? "&amp;"
           : c == '"'  ? "&quot;"
           : c == '\'' ? "&#39;"
                       : "";
  });
}

std::string page(std::string_view title, std::string_view data_json) {
  const auto safe_title = html_safe(title);
  const std::array<std::pair<std::string_view, std::string_view>, 4> parts = {
      {{"title", safe_title}, {"css", kPageCss}, {"script", kPageScript}, {"data", data_json}}};
  std::string out;
  // One pass over the template: what is put in is not searched for places again.
  for (auto rest = kPageHtml;;) {
    const auto begin = rest.find("{{");
    out += rest.substr(0, begin);
    if (begin == std::string_view::npos) return out;
    const auto end = rest.find("}}", begin);
    const auto name = rest.substr(begin + 2, end - begin - 2);
    bool known = false;
    for (const auto& [part, text] : parts) {
      if (part != name) continue;
      out += text;
      known = true;
    }
    if (!known) throw std::logic_error("page.html: unknown place " + std::string(name));
    rest.remove_prefix(end + 2);
  }
}

}  // namespace tailor::trainer
