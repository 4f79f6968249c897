#include "trainer/checkpoint/checkpoint.hpp"

#include <ATen/ops/equal.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <system_error>

#include "models/files/durable_file.hpp"
#include "models/files/safetensors.hpp"
#include "trainer/checkpoint/state_file.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;
using models::FileError;

constexpr const char* kTemporary = ".tmp-";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kState = "trainer_state.json";

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
    tensors.emplace_back(state.first_moment[i].first + ".exp_avg", state.first_moment[i].second);
    tensors.emplace_back(state.second_moment[i].first + ".exp_avg_sq",
                         state.second_moment[i].second);
  }
  models::write_safetensors(file, tensors, {{"format", "pt"}});
}

void read_moments(const fs::path& file, TrainState& state) {
  const auto tensors = models::open_safetensors(file);
  for (const auto& entry : tensors->entries()) {
    for (const auto& [ending, moment] : {std::pair{".exp_avg", &state.first_moment},
                                         std::pair{".exp_avg_sq", &state.second_moment}}) {
      if (!entry.name.ends_with(ending)) continue;
      moment->emplace_back(entry.name.substr(0, entry.name.size() - std::string(ending).size()),
                           tensors->read(entry.name, at::kFloat));
    }
  }
}

void compare(const std::string& what, const NamedTensors& saved, const NamedTensors& memory) {
  if (saved.size() != memory.size())
    throw FileError(what + ": " + std::to_string(saved.size()) + " tensors were saved, " +
                    std::to_string(memory.size()) + " are in memory");
  for (std::size_t i = 0; i < saved.size(); ++i)
    if (saved[i].first != memory[i].first || !at::equal(saved[i].second, memory[i].second))
      throw FileError(what + ": the saved " + saved[i].first + " differs from memory");
}

/// What was written is read again and must be what memory holds.
void verify(const fs::path& folder, const TrainState& state, const peft::LoraAdapter& adapter) {
  const auto saved = read_checkpoint(folder);
  if (!same_numbers(saved.state, state))
    throw FileError((folder / kState).string() + ": differs from memory");
  compare((folder / kOptimizer).string(), saved.state.first_moment, state.first_moment);
  compare((folder / kOptimizer).string(), saved.state.second_moment, state.second_moment);
  const auto parameters = named_parameters(adapter);
  if (saved.adapter.factors.size() != parameters.size())
    throw FileError(folder.string() + ": the saved adapter has " +
                    std::to_string(saved.adapter.factors.size()) + " tensors, memory " +
                    std::to_string(parameters.size()));
  for (const auto& [name, value] : parameters) {
    const auto found = saved.adapter.factors.find("base_model.model." + name);
    if (found == saved.adapter.factors.end() || !at::equal(found->second, value))
      throw FileError(folder.string() + ": the saved " + name + " differs from memory");
  }
}

}  // namespace

NamedTensors named_parameters(const peft::LoraAdapter& adapter) {
  NamedTensors out;
  for (const auto& layer : adapter.layers()) {
    out.emplace_back(layer->path() + ".lora_A.weight", layer->A());
    out.emplace_back(layer->path() + ".lora_B.weight", layer->B());
  }
  return out;
}

CheckpointFolder::CheckpointFolder(fs::path directory, std::optional<std::int64_t> limit)
    : directory_(std::move(directory)), limit_(limit) {
  if (!fs::exists(directory_)) return;
  for (const auto& entry : fs::directory_iterator(directory_))
    if (entry.path().filename().string().starts_with(kTemporary)) fs::remove_all(entry.path());
}

fs::path CheckpointFolder::save(const TrainState& state, const peft::LoraAdapter& adapter,
                                const std::string& base_model) const {
  const auto name = folder_name(state.step);
  const auto temporary = directory_ / (kTemporary + name);
  const auto target = directory_ / name;
  try {
    fs::create_directories(temporary);
    peft::write_adapter(adapter, base_model, temporary);
    write_moments(state, temporary / kOptimizer);
    models::write_durable_file(temporary / kState, state_json(state, temporary));
    verify(temporary, state, adapter);
    fs::remove_all(
        target);  // there only where it was damaged and the run went on from an older one
    fs::rename(temporary, target);
    models::flush_directory(directory_);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  if (limit_) {
    const auto all = list();
    const auto keep = static_cast<std::size_t>(std::max<std::int64_t>(*limit_, 1));
    for (std::size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(all[i]);
  }
  return target;
}

std::vector<fs::path> CheckpointFolder::list() const {
  std::vector<fs::path> out;
  if (!fs::exists(directory_)) return out;
  for (const auto& entry : fs::directory_iterator(directory_))
    if (entry.is_directory() && step_of(entry.path()) >= 0) out.push_back(entry.path());
  std::ranges::sort(out, {}, step_of);
  return out;
}

std::optional<Checkpoint> CheckpointFolder::newest(std::vector<std::string>& warnings) const {
  const auto all = list();
  for (auto folder = all.rbegin(); folder != all.rend(); ++folder) {
    try {
      return read_checkpoint(*folder);
    } catch (const std::exception& error) {
      warnings.push_back("checkpoint " + folder->filename().string() +
                         " is damaged and left out: " + error.what());
    }
  }
  if (all.empty()) return std::nullopt;
  throw FileError(directory_.string() + ": none of its " + std::to_string(all.size()) +
                  " checkpoints is whole; remove the folder to start anew. " + warnings.back());
}

Checkpoint read_checkpoint(const fs::path& path) {
  Checkpoint out{.path = path, .state = read_state(path / kState), .adapter = {}};
  read_moments(path / kOptimizer, out.state);
  out.adapter = peft::read_adapter(path);
  return out;
}

}  // namespace tailor::trainer
