#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "peft/adapter_file.hpp"
#include "peft/lora.hpp"
#include "trainer/checkpoint/train_state.hpp"

namespace tailor::trainer {

struct Checkpoint {
  std::filesystem::path path;
  TrainState state;
  peft::AdapterFiles adapter;
};

/// Checkpoints of one run, DIR/step-000200/{adapter_model.safetensors, adapter_config.json,
/// optimizer.safetensors, trainer_state.json}. One is written under a temporary name, flushed file
/// by file, read back and compared, then renamed, so that a reader never sees half of one.
/// trainer_state.json holds length and checksum of the other files and a checksum of itself.
class CheckpointFolder {
 public:
  /// At most `limit` are kept (absent: all). Temporary folders of a killed process are removed, so
  /// the caller holds the lock of the run.
  CheckpointFolder(std::filesystem::path directory, std::optional<std::int64_t> limit);

  /// Saves and then, where there is a limit, deletes checkpoints of later steps (damaged ones that
  /// the run has gone back behind) and what is beyond the limit, oldest first; what cannot be
  /// deleted stays. Answers the new folder. Throws std::system_error (a full disk) or FileError
  /// (what was read back differs); the checkpoints from before are untouched then, and nothing of
  /// the new one stays.
  std::filesystem::path save(const TrainState& state, const peft::AdapterFiles& adapter) const;

  /// The newest checkpoint that is whole. Each damaged one before it adds a line to `warnings`.
  /// Throws FileError where there are checkpoints and none is whole, and std::system_error or
  /// std::bad_alloc where the disk or memory fails: an older one is not taken for that.
  std::optional<Checkpoint> newest(std::vector<std::string>& warnings) const;
  /// The same without the lock: nothing is removed.
  static std::optional<Checkpoint> newest(const std::filesystem::path& directory,
                                          std::vector<std::string>& warnings);

  std::vector<std::filesystem::path> list() const { return list(directory_); }  // oldest first

 private:
  static std::vector<std::filesystem::path> list(const std::filesystem::path& directory);
  void remove_beyond_limit(std::int64_t newest_step) const;

  std::filesystem::path directory_;
  std::optional<std::int64_t> limit_;
};

/// Throws FileError naming what is missing or damaged.
Checkpoint read_checkpoint(const std::filesystem::path& path);

}  // namespace tailor::trainer
