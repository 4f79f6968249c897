#include "trainer/report/jsonl_file.hpp"

#include <algorithm>

#include "models/text/utf8.hpp"

namespace tailor::trainer {

JsonlFile::JsonlFile(const std::filesystem::path& path)
    : name_(path.filename().string()), reader_(path) {}

bool JsonlFile::next(std::string& line) {
  while (reader_.next(line)) {
    if (reader_.too_long()) {
      last_line_ = reader_.line_number();
      leave_out(last_line_);
      continue;
    }
    // JSON writes control characters as \u00XX: a raw one is damage, or white space.
    const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
    std::replace_if(line.begin(), line.end(), control, ' ');
    if (line.find_first_not_of(' ') == std::string::npos) continue;
    last_line_ = reader_.line_number();
    std::string storage;
    const auto text = models::text::valid_utf8(line, storage);
    if (text.data() != line.data()) line = std::move(storage);
    return true;
  }
  return false;
}

void JsonlFile::leave_out(std::int64_t number) {
  first_left_out_ = num_left_out_++ == 0 ? number : std::min(first_left_out_, number);
  last_left_out_ = std::max(last_left_out_, number);
}

void JsonlFile::tell(Notes& notes) const {
  if (num_left_out_ == 0) return;
  const bool torn = last_left_out_ == last_line_;
  if (torn && num_left_out_ == 1) {
    notes.push_back(name_ +
                    ": the last line is not complete and is left out: the run goes on, or " +
                    "was killed while it wrote");
    return;
  }
  const auto number = std::to_string(first_left_out_);
  notes.push_back(name_ + ": " +
                  (num_left_out_ == 1
                       ? "line " + number + " is not usable and is"
                       : std::to_string(num_left_out_) +
                             " lines are not usable, the first is line " + number + ", and are") +
                  " left out");
}

}  // namespace tailor::trainer
