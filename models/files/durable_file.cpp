#include "models/files/durable_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace tailor::models {
namespace {

[[noreturn]] void fail_of(const std::filesystem::path& file, const std::string& action) {
  throw std::system_error(errno, std::generic_category(), file.string() + ": cannot " + action);
}

std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
}

}  // namespace

DurableFile::DurableFile(std::filesystem::path file) : file_(std::move(file)) {
  // The process id keeps two writers of one file apart.
  const std::string name =
      "." + file_.filename().string() + "." + std::to_string(getpid()) + ".tmp";
  temporary_ = folder_of(file_) / name;
  descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("be created");
}

DurableFile::~DurableFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

void DurableFile::fail(const char* action) const { fail_of(file_, action); }

void DurableFile::write(const void* bytes, std::size_t size, std::uint64_t offset) {
  constexpr std::size_t kMaxWrite = std::size_t{1} << 30;  // Linux writes 2 GiB at most
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written =
        pwrite(descriptor_, at, std::min(size, kMaxWrite), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("be written");
    at += written;
    size -= static_cast<std::size_t>(written);
    offset += static_cast<std::uint64_t>(written);
  }
}

void DurableFile::commit() {
  if (fsync(descriptor_) != 0) fail("be flushed");
  const int descriptor = std::exchange(descriptor_, -1);
  if (close(descriptor) != 0 || rename(temporary_.c_str(), file_.c_str()) != 0) {
    const int reason = errno;
    unlink(temporary_.c_str());
    errno = reason;
    fail("be written");
  }
  flush_directory(folder_of(file_));
}

void write_durable_file(const std::filesystem::path& file, std::string_view text) {
  DurableFile out(file);
  out.write(text.data(), text.size(), 0);
  out.commit();
}

void flush_directory(const std::filesystem::path& directory) {
  const int descriptor = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_of(directory, "be opened");
  const int result = fsync(descriptor);
  const int reason = errno;
  close(descriptor);
  errno = reason;
  if (result != 0 && reason != EINVAL) fail_of(directory, "be flushed");  // EINVAL: it has no fsync
}

}  // namespace tailor::models
