#include "trainer/checkpoint/run_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "configs/reader.hpp"

namespace tailor::trainer {

RunDirectory::RunDirectory(std::filesystem::path path) : path_(std::move(path)) {
  std::filesystem::create_directories(path_);
  const auto file = path_ / ".lock";
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0)
    throw std::system_error(errno, std::generic_category(), "cannot open " + file.string());
  // The kernel drops the lock with the process, however that ends.
  if (::flock(lock_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  ::close(lock_);
  if (error == EWOULDBLOCK)
    throw configs::ConfigError("output.dir: another process is training in " + path_.string() +
                               "; wait for it, or name another directory");
  throw std::system_error(error, std::generic_category(), "cannot lock " + file.string());
}

RunDirectory::~RunDirectory() { ::close(lock_); }

bool RunDirectory::used() const {
  return std::filesystem::exists(config()) || std::filesystem::exists(checkpoints()) ||
         std::filesystem::exists(adapter()) || std::filesystem::exists(path_ / "metrics.jsonl");
}

}  // namespace tailor::trainer
