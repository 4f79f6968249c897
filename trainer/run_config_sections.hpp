#pragma once

#include "trainer/run_config.hpp"
#include "trainer/run_config_paths.hpp"

namespace tailor::trainer {

/// Reads one section of the job file each; a path that is not absolute is under `base`'s folder.
/// Problems and `notes` of settings that have no effect are collected.
ModelConfig read_model(configs::Section section, const PathBase& base);
DataConfig read_data(configs::Section section, const PathBase& base);
TrainConfig read_train(configs::Section section, std::vector<std::string>& notes);
ParallelConfig read_parallel(configs::Section section);
OutputConfig read_output(configs::Section section, const PathBase& base);

}  // namespace tailor::trainer
