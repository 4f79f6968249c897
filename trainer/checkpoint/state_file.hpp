#pragma once

#include <filesystem>
#include <string>

#include "trainer/checkpoint/train_state.hpp"

namespace tailor::trainer {

/// trainer_state.json of a checkpoint: the numbers of `state`, length and checksum of every other
/// file that lies in `folder`, and a checksum of the document itself.
std::string state_json(const TrainState& state, const std::filesystem::path& folder);

/// Reads it and checks the files beside it against it; moments stay empty. Throws models::FileError
/// naming the file that is missing or damaged.
TrainState read_state(const std::filesystem::path& file);

bool same_numbers(const TrainState& a, const TrainState& b);  // all but the moments

}  // namespace tailor::trainer
