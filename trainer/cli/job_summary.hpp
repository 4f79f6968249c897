#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "peft/lora.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer::cli {

/// The configured adapter in a model, loaded or not; factors from the seed. `whole`: where the
/// model is one rank's part. Throws ConfigError with the place of peft.target_modules where a
/// target matches nothing.
std::unique_ptr<peft::LoraAdapter> seat_new_adapter(models::CausalLM& model,
                                                    const RunConfig& config,
                                                    const peft::ModulePaths* whole = nullptr);

/// Refuses what the job asks of routers that this model, which is whole and has its adapter, does
/// not have. Throws ConfigError.
void check_router(const RunConfig& config, models::CausalLM& model,
                  const peft::LoraAdapter& adapter);

std::string with_commas(std::int64_t number);
std::string counted(std::int64_t count, const std::string& noun);  // "1 step", "1,234 steps"
std::string as_bytes(std::int64_t bytes);                          // "1.3 GB"

/// Parameters of a model by class: the last segment but one of their names ("q_proj").
struct ParameterClass {
  std::string name;
  std::int64_t tensors = 0, parameters = 0;
};
std::vector<ParameterClass> parameter_classes(models::CausalLM& model);
std::int64_t num_parameters(models::CausalLM& model);

/// Lines for people.
std::string describe_model(models::CausalLM& model, const models::Pretrained& pretrained,
                           const Precision& precision);
std::string describe_adapter(const peft::LoraAdapter& adapter);

/// What is allowed and is rarely meant.
std::vector<std::string> adapter_warnings(const peft::LoraAdapter& adapter);

}  // namespace tailor::trainer::cli
