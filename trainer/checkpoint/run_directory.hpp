#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tailor::trainer {

/// The folder of one run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/, adapter/. Made
/// where it is missing, and locked as long as this lives, since two processes would destroy each
/// other's files. A folder that was made here and holds nothing in the end is taken away again, so
/// that a job that cannot begin leaves none. Throws ConfigError where another process holds it and
/// std::system_error where it cannot be made.
class RunDirectory {
 public:
  explicit RunDirectory(std::filesystem::path path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path adapter() const { return path_ / "adapter"; }
  /// Something of an earlier run lies here.
  bool used() const;

 private:
  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // folders that were missing, the innermost first
  int lock_;
};

}  // namespace tailor::trainer
