#pragma once

#include "trainer/run_config.hpp"
#include "trainer/run_config_paths.hpp"

namespace tailor::trainer {

/// Reads one section of the job file each; a path that is not absolute is under `base`'s folder.
/// `of_prompts`: the rows are prompts, for GRPO. Problems and `notes` of settings that have no
/// effect are collected.
ModelConfig read_model(configs::Section section, const PathBase& base);
DataConfig read_data(configs::Section section, const PathBase& base, bool of_prompts);
TrainConfig read_train(configs::Section section, std::vector<std::string>& notes);
/// `grpo`: the task, which leaves routers alone.
RouterTraining read_router(configs::Section section, bool grpo);
ParallelConfig read_parallel(configs::Section section);
OutputConfig read_output(configs::Section section, const PathBase& base);
GrpoConfig read_grpo(configs::Section section);
/// What the `grpo` section and the others say against each other.
void check_grpo(configs::Section& root, const RunConfig& config);

}  // namespace tailor::trainer
