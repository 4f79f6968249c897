#include "trainer/data/line_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "configs/reader.hpp"

namespace tailor::trainer {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 18;
constexpr const char* kByteOrderMark = "\xEF\xBB\xBF";

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& reason) {
  throw configs::ConfigError(path.string() + ": " + reason);
}

}  // namespace

LineReader::LineReader(const std::filesystem::path& path, char separator,
                       std::size_t max_line_bytes)
    : path_(path), separator_(separator), max_line_bytes_(max_line_bytes), block_(kBlockBytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) refuse(path, "no such file");
  if (error) refuse(path, error.message());
  if (std::filesystem::is_directory(status)) refuse(path, "expected a file, found a directory");
  if (std::filesystem::is_character_file(status) || std::filesystem::is_block_file(status))
    refuse(path, "expected a file, found a device");
  errno = 0;
  file_.open(path, std::ios::binary);
  if (!file_) refuse(path, errno != 0 ? std::strerror(errno) : "cannot be opened");
}

bool LineReader::fill() {
  file_.read(block_.data(), static_cast<std::streamsize>(block_.size()));
  if (file_.bad()) refuse(path_, "reading failed");
  begin_ = 0;
  end_ = static_cast<std::size_t>(file_.gcount());
  return end_ > 0;
}

bool LineReader::next(std::string& line) {
  line.clear();
  too_long_ = false;
  bool any = false, ended = false;
  while (!ended) {
    if (begin_ == end_ && !fill()) break;
    any = true;
    const char* first = block_.data() + begin_;
    const char* last = block_.data() + end_;
    const char* stop = std::find(first, last, separator_);
    const auto length = static_cast<std::size_t>(stop - first);
    if (line.size() + length > max_line_bytes_) too_long_ = true;
    if (!too_long_) line.append(first, length);
    ended = stop != last;
    begin_ += length + (ended ? 1 : 0);
  }
  if (!any) return false;
  ++line_number_;
  if (too_long_) line.clear();
  if (separator_ != '\n') return true;
  if (line_number_ == 1 && line.starts_with(kByteOrderMark)) line.erase(0, 3);
  if (line.ends_with('\r')) line.pop_back();
  return true;
}

}  // namespace tailor::trainer
