#include "trainer/cli/job_summary.hpp"

#include <algorithm>

#include "models/families/routers.hpp"
#include "trainer/cli/job_task.hpp"

namespace tailor::trainer::cli {
namespace {

std::string class_of(const std::string& parameter) {
  const auto last = parameter.rfind('.');
  if (last == std::string::npos) return parameter;
  const auto before = parameter.rfind('.', last - 1);
  return parameter.substr(before + 1, last - before - 1);
}

}  // namespace

std::unique_ptr<peft::LoraAdapter> seat_new_adapter(models::CausalLM& model,
                                                    const RunConfig& config,
                                                    const peft::ModulePaths* whole) {
  if (!config.peft) throw configs::ConfigError("peft: missing; this program trains adapters");
  return std::make_unique<peft::LoraAdapter>(model, *config.peft, config.train.seed,
                                             config.target_modules_place, whole);
}

void check_router(const RunConfig& config, models::CausalLM& model,
                  const peft::LoraAdapter& adapter) {
  if (config.router.capacity.factor > 0.0 && models::routers(model).empty())
    throw configs::ConfigError(config.router.capacity_place +
                               ": the model has no sparse layer, so no experts; leave it out");
  if (!config.router.train_router) return;
  if (adapter.routers().empty())
    throw configs::ConfigError(config.peft->places.at("train_router") +
                               ": the model has no sparse layer, so no router");
  const auto has_bias = [](const auto& router) { return router->correction_bias().defined(); };
  if (config.router.router_bias_update_rate > 0.0 &&
      std::ranges::none_of(adapter.routers(), has_bias))
    throw configs::ConfigError(
        config.router.bias_place +
        ": the model's routers have no e_score_correction_bias; leave it out");
}

std::string with_commas(std::int64_t number) {
  auto out = std::to_string(number);
  for (auto at = static_cast<std::int64_t>(out.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
    out.insert(static_cast<std::size_t>(at), ",");
  return out;
}

std::string counted(std::int64_t count, const std::string& noun) {
  return with_commas(count) + ' ' + noun + (count == 1 ? "" : "s");
}

std::string as_bytes(std::int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? fixed(value / 1e6, 0) + " MB" : fixed(value / 1e9, 2) + " GB";
}

std::vector<ParameterClass> parameter_classes(models::CausalLM& model) {
  std::vector<ParameterClass> out;
  for (const auto& parameter : model.parameters()) {
    const auto name = class_of(parameter.name);
    auto found = std::ranges::find(out, name, &ParameterClass::name);
    if (found == out.end()) found = out.insert(out.end(), {.name = name});
    std::int64_t size = 1;
    for (const auto extent : parameter.shape) size *= extent;
    found->tensors += 1;
    found->parameters += size;
  }
  return out;
}

std::int64_t num_parameters(models::CausalLM& model) {
  std::int64_t total = 0;
  for (const auto& entry : parameter_classes(model)) total += entry.parameters;
  return total;
}

std::string describe_model(models::CausalLM& model, const models::Pretrained& pretrained,
                           const Precision& precision) {
  const auto& shape = model.shape();
  return pretrained.path.filename().string() + " (" + shape.model_type + ", " +
         std::to_string(shape.num_hidden_layers) + " layers), " +
         fixed(static_cast<double>(num_parameters(model)) / 1e6, 1) + " M parameters, " +
         precision.describe();
}

std::string describe_adapter(const peft::LoraAdapter& adapter) {
  const auto& config = adapter.config();
  std::string classes;
  std::int64_t num_layers = 0;
  std::string routers;
  for (const auto& [name, count] : adapter.counts()) {
    if (name == "router") {
      routers = ", and " + counted(count.layers, "router");
      continue;
    }
    num_layers += count.layers;
    classes += (classes.empty() ? "" : ", ") + name + " " + std::to_string(count.layers);
  }
  return "r " + std::to_string(config.r) + ", alpha " + fixed(config.lora_alpha, 0) + " in " +
         std::to_string(num_layers) + " layers (" + classes + ")" + routers + ", " +
         with_commas(adapter.num_parameters()) + " parameters";
}

std::vector<std::string> adapter_warnings(const peft::LoraAdapter& adapter) {
  if (!adapter.experts_left_out()) return {};
  return {
      "the adapter leaves out the model's routed experts, which are most of its parameters: "
      "peft.target_modules names none of them"};
}

}  // namespace tailor::trainer::cli
