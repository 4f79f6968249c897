#include "trainer/checkpoint/run_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "configs/reader.hpp"

namespace tailor::trainer {

namespace {

constexpr const char* kLock = ".lock";

/// The file that was opened is the one that lies there now: a process that ended may have taken it
/// away in between, and a lock on that keeps nobody out.
bool is_file_at(int descriptor, const std::filesystem::path& path) {
  struct stat opened {
  }, found{};
  return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &found) == 0 &&
         opened.st_dev == found.st_dev && opened.st_ino == found.st_ino;
}

bool holds_only_lock(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  for (const std::filesystem::directory_iterator end; !error && entry != end;
       entry.increment(error))
    if (entry->path().filename() != kLock) return false;
  return !error;
}

}  // namespace

RunDirectory::RunDirectory(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code unknown;
  for (auto folder = path_; !folder.empty() && !std::filesystem::exists(folder, unknown);
       folder = folder.parent_path())
    made_.push_back(folder);
  const auto file = path_ / kLock;
  for (bool locked = false; !locked;) {
    std::error_code error;
    std::filesystem::create_directories(path_, error);
    if (error) throw std::system_error(error, "output.dir: cannot make " + path_.string());
    lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock_ < 0) {
      if (errno == ENOENT) continue;  // another process has just taken the folder away
      throw std::system_error(errno, std::generic_category(),
                              "output.dir: cannot open " + file.string());
    }
    // The kernel drops the lock with the process, however that ends.
    if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      const int code = errno;
      ::close(lock_);
      if (code == EWOULDBLOCK)
        throw configs::ConfigError("output.dir: another process is training in " + path_.string() +
                                   "; wait for it, or name another directory");
      throw std::system_error(code, std::generic_category(),
                              "output.dir: cannot lock " + file.string());
    }
    locked = is_file_at(lock_, file);
    if (!locked) ::close(lock_);
  }
}

RunDirectory::~RunDirectory() {
  if (!made_.empty() && holds_only_lock(path_)) {
    std::error_code ignored;
    std::filesystem::remove(path_ / kLock, ignored);
    for (const auto& folder : made_)
      if (!std::filesystem::remove(folder, ignored)) break;  // something else lies there
  }
  ::close(lock_);
}

bool RunDirectory::used() const {
  return std::filesystem::exists(config()) || std::filesystem::exists(checkpoints()) ||
         std::filesystem::exists(adapter()) || std::filesystem::exists(path_ / "metrics.jsonl");
}

}  // namespace tailor::trainer
