#include "models/files/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tailor::models {
namespace {

/// Closes on every way out.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file) : name_(file.string()) {
  // A pipe without a writer would be waited for; regular files take no notice.
  const Descriptor descriptor{open(name_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  const auto fail = [&] { throw FileError(name_ + ": cannot be read: " + std::strerror(errno)); };
  struct stat status {};
  if (descriptor.value < 0 || fstat(descriptor.value, &status) != 0) fail();
  if (!S_ISREG(status.st_mode)) throw FileError(name_ + ": expected a regular file");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // which mmap refuses
  void* address = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor.value, 0);
  if (address == MAP_FAILED) fail();
  data_ = static_cast<char*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

void MappedFile::release(std::size_t begin, std::size_t size) const {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t first = (begin + page - 1) / page * page;  // whole pages inside the part
  const std::size_t last = (begin + size) / page * page;
  if (first < last) madvise(data_ + first, last - first, MADV_DONTNEED);
}

std::string read_text_file(const std::filesystem::path& file) {
  return std::string(MappedFile(file).bytes());
}

}  // namespace tailor::models
