#include "trainer/checkpoint/checkpoint.hpp"

#include <ATen/ops/equal.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstdio>  // renameat2
#include <system_error>

#include "configs/reader.hpp"
#include "models/files/durable_file.hpp"
#include "models/files/safetensors.hpp"
#include "models/files/safetensors_dtype.hpp"
#include "models/files/safetensors_writer.hpp"
#include "trainer/checkpoint/state_file.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;
using models::FileError;

constexpr const char* kTemporary = ".tmp-";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kRollouts = "rollouts.safetensors";  // where some are left over
constexpr const char* kState = "trainer_state.json";
constexpr const char *kFirst = ".exp_avg", *kSecond = ".exp_avg_sq";  // torch's names

std::string folder_name(std::int64_t step) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "step-%06lld", static_cast<long long>(step));
  return name.data();
}

/// The step of "step-000200"; -1 for any other name.
std::int64_t step_of(const fs::path& folder) {
  const auto name = folder.filename().string();
  if (!name.starts_with("step-") || name.size() < 6 || name.size() > 20) return -1;
  const auto digits = name.substr(5);
  if (digits.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::stoll(digits);
}

void write_moments(const TrainState& state, const fs::path& file) {
  NamedTensors tensors;
  for (std::size_t i = 0; i < state.first_moment.size(); ++i) {
    tensors.emplace_back(state.first_moment[i].first + kFirst, state.first_moment[i].second);
    tensors.emplace_back(state.second_moment[i].first + kSecond, state.second_moment[i].second);
  }
  models::write_safetensors(file, tensors, {{"format", "pt"}});
}

/// Calls `visit` with parameter, moment and value of every tensor of the file, one at a time.
template <typename Visit>
void each_moment(const fs::path& file, const Visit& visit) {
  const auto tensors = models::open_safetensors(file);
  for (const auto& entry : tensors->entries()) {
    const auto dot = entry.name.rfind('.');
    const auto moment = dot == std::string::npos ? "" : entry.name.substr(dot);
    if (moment != kFirst && moment != kSecond)
      throw FileError(file.string() + ": " + entry.name + ": expected a name that ends in " +
                      kFirst + " or " + kSecond);
    visit(entry.name.substr(0, dot), moment, tensors->read(entry.name, at::kFloat));
  }
}

NamedTensors read_rollouts(const fs::path& file) {
  NamedTensors out;
  if (!fs::exists(file)) return out;
  const auto tensors = models::open_safetensors(file);
  for (const auto& entry : tensors->entries())
    out.emplace_back(entry.name, tensors->read(entry.name, *models::dtype_named(entry.dtype)));
  return out;
}

bool same(const NamedTensors& a, const NamedTensors& b) {
  return std::ranges::is_permutation(a, b, [](const auto& x, const auto& y) {
    return x.first == y.first && at::equal(x.second, y.second);
  });
}

/// What was written is read again and must be what memory holds. write_adapter() does so itself.
void verify(const fs::path& folder, const TrainState& state) {
  if (!same_numbers(read_state(folder / kState), state))
    throw FileError((folder / kState).string() + ": differs from memory");
  if (!same(read_rollouts(folder / kRollouts), state.rollouts))
    throw FileError((folder / kRollouts).string() + ": differs from memory");
  const auto file = folder / kOptimizer;
  std::size_t num_same = 0;
  each_moment(
      file, [&](const std::string& name, const std::string& moment, const at::Tensor& saved) {
        const auto& memory = moment == kFirst ? state.first_moment : state.second_moment;
        const auto found = std::ranges::find(memory, name, &NamedTensors::value_type::first);
        if (found == memory.end() || !at::equal(found->second, saved))
          throw FileError(file.string() + ": the saved " + name + moment + " differs from memory");
        ++num_same;
      });
  const auto expected = state.first_moment.size() + state.second_moment.size();
  if (num_same != expected)
    throw FileError(file.string() + ": " + std::to_string(num_same) + " tensors were saved, " +
                    std::to_string(expected) + " are in memory");
}

/// Renames. One of the same step may be there, damaged or with its evaluation due: it gives way in
/// the same moment where the file system can do that, so that there is one at all times.
void put_in_place(const fs::path& temporary, const fs::path& target) {
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
    fs::remove_all(target);
    fs::rename(temporary, target);
  } else {
    fs::remove_all(temporary);
  }
}

}  // namespace

CheckpointFolder::CheckpointFolder(fs::path directory, std::optional<std::int64_t> limit)
    : directory_(std::move(directory)), limit_(limit) {
  if (!fs::exists(directory_)) return;
  for (const auto& entry : fs::directory_iterator(directory_))
    if (entry.path().filename().string().starts_with(kTemporary)) fs::remove_all(entry.path());
}

fs::path CheckpointFolder::save(const TrainState& state, const peft::AdapterFiles& adapter) const {
  const auto name = folder_name(state.step);
  const auto temporary = directory_ / (kTemporary + name);
  const auto target = directory_ / name;
  try {
    fs::create_directories(temporary);
    peft::write_adapter(adapter, temporary);
    write_moments(state, temporary / kOptimizer);
    if (!state.rollouts.empty())
      models::write_safetensors(temporary / kRollouts, state.rollouts, {{"format", "pt"}});
    models::write_durable_file(temporary / kState, state_json(state, temporary));
    verify(temporary, state);
    put_in_place(temporary, target);
    models::flush_directory(directory_);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  if (limit_) remove_beyond_limit(state.step);
  return target;
}

void CheckpointFolder::remove_beyond_limit(std::int64_t newest_step) const {
  std::error_code ignored;  // what cannot be removed now costs room, not the run
  auto all = list();
  // The run has gone back behind later ones, which were damaged: counted, they would push out the
  // one that was just written.
  while (step_of(all.back()) > newest_step) {
    fs::remove_all(all.back(), ignored);
    all.pop_back();
  }
  const auto keep = static_cast<std::size_t>(std::max<std::int64_t>(*limit_, 1));
  for (std::size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(all[i], ignored);
}

std::vector<fs::path> CheckpointFolder::list(const fs::path& directory) {
  std::vector<fs::path> out;
  if (!fs::exists(directory)) return out;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.is_directory() && step_of(entry.path()) >= 0) out.push_back(entry.path());
  std::ranges::sort(out, {}, step_of);
  return out;
}

std::optional<Checkpoint> CheckpointFolder::newest(std::vector<std::string>& warnings) const {
  return newest(directory_, warnings);
}

std::optional<Checkpoint> CheckpointFolder::newest(const fs::path& directory,
                                                   std::vector<std::string>& warnings) {
  const auto all = list(directory);
  for (auto folder = all.rbegin(); folder != all.rend(); ++folder) {
    const auto leave_out = [&](const std::exception& error) {  // which names it
      warnings.push_back(std::string("a damaged checkpoint is left out: ") + error.what());
    };
    // Any other error, of the disk or of memory, says nothing about the checkpoint.
    try {
      return read_checkpoint(*folder);
    } catch (const FileError& error) {
      leave_out(error);
    } catch (const configs::ConfigError& error) {
      leave_out(error);
    }
  }
  if (all.empty()) return std::nullopt;
  throw FileError(directory.string() + ": none of its " + std::to_string(all.size()) +
                  " checkpoints is whole; remove the folder to start anew. " + warnings.back());
}

Checkpoint read_checkpoint(const fs::path& path) {
  Checkpoint out{.path = path, .state = read_state(path / kState), .adapter = {}};
  each_moment(path / kOptimizer,
              [&](const std::string& name, const std::string& moment, const at::Tensor& value) {
                auto& moments = moment == kFirst ? out.state.first_moment : out.state.second_moment;
                moments.emplace_back(name, value);
              });
  out.state.rollouts = read_rollouts(path / kRollouts);
  out.adapter = peft::read_adapter(path);
  return out;
}

}  // namespace tailor::trainer
