# cmake -DOUTPUT=... -DHTML=... -DCSS=... -DSCRIPTS=... -P embed_page.cmake: page_parts.hpp's constants from the page's
# files. A raw string literal takes any text but its own end.
function(literal result)
  set(text)
  foreach(file IN LISTS ARGN)
    file(READ "${file}" part)
    string(FIND "${part}" ")page\"" at)
    if(NOT at EQUAL -1)
      message(FATAL_ERROR "${file}: holds the end of a raw string literal")
    endif()
    string(APPEND text "\n    R\"page(${part})page\"")
  endforeach()
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

literal(html ${HTML})
literal(css ${CSS})
literal(script ${SCRIPTS})
file(WRITE "${OUTPUT}" "#include \"trainer/report/page_parts.hpp\"

namespace tailor::trainer {

const std::string_view kPageHtml =${html};
const std::string_view kPageCss =${css};
const std::string_view kPageScript =${script};

}  // namespace tailor::trainer
")
