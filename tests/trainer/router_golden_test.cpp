// Trained routers against HF PEFT and transformers (scripts/golden/make_router_goldens.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>

#include "models/files/mapped_file.hpp"
#include "tests/trainer/peft_golden.hpp"
#include "trainer/losses/router_losses.hpp"
#include "trainer/parallel/gradient_sync.hpp"
#include "trainer/sft/flat_parameters.hpp"
#include "trainer/sft/router_balance.hpp"

using namespace tailor;

namespace {

struct Setting : tests::PeftGolden {
  explicit Setting(const std::string& name) : PeftGolden("router", name) {
    REQUIRE_FALSE(adapter->routers().empty());
  }

  std::vector<double> numbers(const std::string& name) const {
    const auto values = golden->read(name, at::kFloat);
    return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
  }
};

struct Folder {
  std::filesystem::path path;
  Folder() {
    auto name = (std::filesystem::temp_directory_path() / "tailor_router_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
};

/// load_balancing_loss_func of transformers 5: all layers in one, and shares that sum to K.
double pooled_loss(const std::vector<models::RoutingTrace::Layer>& layers) {
  std::vector<at::Tensor> logits, ids;
  for (const auto& layer : layers) {
    logits.push_back(layer.logits_TE);
    ids.push_back(layer.ids_TK);
  }
  const auto p_TE = at::cat(logits).softmax(1);
  const auto counts_E = trainer::expert_counts(at::cat(ids), p_TE.size(1));
  const auto share_E = counts_E / p_TE.size(0);
  return (share_E * p_TE.mean(0)).sum().item<double>() * static_cast<double>(p_TE.size(1));
}

const auto kGradient = [](const at::Tensor& value) {
  REQUIRE(value.grad().defined());
  return value.grad();
};

/// For a pass on one rank, where nothing is summed.
struct OneRankReduction {
  explicit OneRankReduction(const distributed::Mesh& mesh)
      : sync(mesh, std::vector<trainer::GradientSync::Bucket>()), reduction(sync, {}, {}) {}
  trainer::GradientSync sync;
  trainer::GradientReduction reduction;
};

}  // namespace

TEST_CASE("trained routers saved by PEFT give PEFT's logits", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "olmoe", "qwen3_moe", "deepseek_v3");
  CAPTURE(name);
  const Setting setting(name);
  const at::NoGradGuard no_grad;
  const auto expected = setting.golden->read("logits", at::kFloat);
  const auto difference = [&] {
    const auto logits = setting.model->lm_head()(setting.model->hidden_states(setting.batch));
    return (logits - expected).abs().max().item<double>();
  };
  CHECK(difference() < 1e-4);
  for (const auto& router : setting.adapter->routers()) router->set_enabled(false);
  CHECK(difference() > 1e-2);  // they do something
  setting.adapter->set_enabled(false);
  const auto base = tests::load_tiny("tiny_" + name);
  CHECK(setting.model->hidden_states(setting.batch).equal(base->hidden_states(setting.batch)));
}

TEST_CASE("routers are written as PEFT reads them, and what is missing is named", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "deepseek_v3");
  const Setting setting(name);
  const Folder folder;
  peft::write_adapter(*setting.adapter, "", folder.path);
  auto files = peft::read_adapter(folder.path);
  const bool has_bias = name == "deepseek_v3";
  CHECK(files.saved.size() == setting.adapter->routers().size() * (has_bias ? 2 : 1));
  CHECK(models::read_text_file(folder.path / "adapter_config.json").find("\"mlp.gate\"") !=
        std::string::npos);
  const auto theirs = peft::read_adapter(tests::kGolden / "router" / name);
  for (const auto& [key, value] : theirs.saved) CHECK(files.saved.at(key).equal(value));

  const auto key = files.saved.begin()->first;
  const auto error = [&] {
    try {
      peft::load_factors(files, *setting.adapter);
    } catch (const models::FileError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error().empty());
  files.saved["base_model.model.model.layers.9.mlp.gate.weight"] = at::zeros({1, 1});
  CHECK_THAT(error(), Catch::Contains("layers.9.mlp.gate.weight fits no router"));
  files.saved[key] = at::zeros({1});
  CHECK_THAT(error(), Catch::Contains(key + ": expected shape"));
  files.saved.erase(key);
  CHECK_THAT(error(), Catch::Contains(key + " is missing"));
  const auto base = tests::load_tiny("tiny_" + name);
  auto config = files.config;
  config.train_router = false;
  peft::LoraAdapter frozen(*base, config, /*seed=*/0);
  CHECK_FALSE(peft::complete_routers(files, frozen));
  CHECK_THROWS_WITH(peft::load_factors(files, frozen), Catch::Contains("router.train_router"));
}

TEST_CASE("gradients of routers and factors equal PEFT's", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "olmoe", "qwen3_moe", "deepseek_v3");
  CAPTURE(name);
  const Setting setting(name);
  const auto loss = setting.mean_loss();
  CHECK(loss.item<double>() == Approx(setting.numbers("loss").front()).epsilon(1e-6));
  loss.backward();
  CHECK(setting.largest_difference("gradient", kGradient) < 1e-5);
}

TEST_CASE("what routers say has transformers' balancing loss", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "olmoe", "qwen3_moe");
  CAPTURE(name);
  const Setting setting(name);
  const at::NoGradGuard no_grad;
  models::RoutingTrace trace;
  auto batch = setting.batch;
  batch.trace = &trace;
  setting.model->hidden_states(batch);
  const auto aux = setting.numbers("layer_aux_losses"), z = setting.numbers("z_losses");
  std::vector<models::RoutingTrace::Layer> layers;
  for (const auto& [number, layer] : trace.layers) {
    const auto i = layers.size();
    const auto counts_E = trainer::expert_counts(layer.ids_TK, layer.logits_TE.size(1));
    const auto ours = trainer::load_balancing_loss(layer.logits_TE, counts_E).item<double>();
    // Theirs is K at balance, ours 1.
    CHECK(static_cast<double>(layer.ids_TK.size(1)) * ours == Approx(aux.at(i)).epsilon(1e-5));
    CHECK(trainer::z_loss(layer.logits_TE).item<double>() == Approx(z.at(i)).epsilon(1e-5));
    layers.push_back(layer);
  }
  CHECK(pooled_loss(layers) == Approx(setting.numbers("aux_loss").front()).epsilon(1e-5));
}

TEST_CASE("gradients of the balanced loss equal those of transformers' function", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "olmoe", "qwen3_moe");
  const std::int64_t micro_batch_tokens = GENERATE(1024, 15);
  CAPTURE(name, micro_batch_tokens);
  Setting setting(name);
  trainer::FlatParameters::Named named;
  for (const auto& trainable : setting.adapter->trainables())
    named.emplace_back(trainable.name, trainable.value);
  trainer::FlatParameters trainable(named);
  const auto world = distributed::make_single_group();
  const auto mesh = distributed::make_mesh(*world, {});
  const auto coefficients = setting.numbers("coefficients");
  trainer::RouterBalance balance({.train_router = true,
                                  .router_aux_loss_coef = coefficients[0],
                                  .router_z_loss_coef = coefficients[1],
                                  .bias_place = {}},
                                 *setting.model, mesh);
  std::vector<const trainer::Example*> rows;
  for (const auto& document : setting.documents) rows.push_back(&document);
  std::vector<trainer::NumberedBatch> batches;
  std::int64_t supervised = 0;
  for (const auto& part : trainer::cut(rows, micro_batch_tokens)) {
    batches.push_back({trainer::make_batch(part.documents, /*multiple=*/4), part.first_token});
    supervised += batches.back().batch.num_supervised;
  }
  const auto share = at::full({}, 1.0 / static_cast<double>(supervised), at::kFloat);
  const auto pass = balance.pass(*setting.model, *setting.adapter, /*seed=*/0, /*step=*/1, {});
  OneRankReduction alone(mesh);
  const auto sums = pass(batches, share, alone.reduction);
  CHECK(sums.loss / static_cast<double>(supervised) ==
        Approx(setting.numbers("loss").front()).epsilon(1e-5));
  CHECK(setting.largest_difference("balanced_gradient", kGradient) < 1e-5);

  const auto metrics = balance.finish_step();
  const auto mean = [&](const char* values) {
    double sum = 0.0;
    for (const auto value : setting.numbers(values)) sum += value;
    return sum / static_cast<double>(setting.numbers(values).size());
  };
  const auto chosen = static_cast<double>(setting.model->shape().num_experts_per_tok);
  CHECK(*trainer::find_number(metrics, "aux_loss") ==
        Approx(mean("layer_aux_losses") / chosen).epsilon(1e-5));
  CHECK(*trainer::find_number(metrics, "z_loss") == Approx(mean("z_losses")).epsilon(1e-5));
  CHECK(*trainer::find_number(metrics, "router/max_load") > 1.0);
}

namespace {

/// The documents of a setting in two micro-batches.
std::vector<trainer::NumberedBatch> two_batches(const Setting& setting) {
  const auto& documents = setting.documents;
  REQUIRE(documents.size() >= 2);
  std::vector<const trainer::Example*> rest;
  for (std::size_t d = 1; d < documents.size(); ++d) rest.push_back(&documents[d]);
  return {{trainer::make_batch({&documents[0]}), 0},
          {trainer::make_batch(rest), static_cast<std::int64_t>(documents[0].ids.size())}};
}

/// What the balancing losses of a step are said to be, written down once more.
at::Tensor balancing_loss(const Setting& setting, const trainer::RouterTraining& config,
                          const std::vector<trainer::NumberedBatch>& batches) {
  const auto num_tokens = static_cast<double>(setting.batch.num_tokens());
  const auto num_documents = static_cast<double>(setting.documents.size());
  auto total = at::zeros({});
  for (const auto& [numbered, first] : batches) {
    models::RoutingTrace trace;
    auto batch = numbered;
    batch.trace = &trace;
    setting.model->hidden_states(batch);
    for (const auto& router : setting.adapter->routers()) {
      const auto& [logits_TE, ids_TK, kept_TK] = trace.layers.at(router->layer());
      CHECK(kept_TK.equal(ids_TK));  // no capacity
      const auto score = router->config().score;
      const auto aux = trainer::load_balancing_loss(
          logits_TE, trainer::expert_counts(ids_TK, logits_TE.size(1)), score);
      const auto seq =
          trainer::sequence_balancing_loss(logits_TE, ids_TK, batch.document_offsets, score);
      total = total +
              aux * (config.router_aux_loss_coef * static_cast<double>(batch.num_tokens()) /
                     num_tokens) +
              seq * (config.router_seq_aux_loss_coef * static_cast<double>(batch.num_documents()) /
                     num_documents);
    }
  }
  return total / static_cast<double>(setting.adapter->routers().size());
}

}  // namespace

TEST_CASE("a step adds the balancing losses with the weights that are documented", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "deepseek_v3");
  trainer::RouterTraining config{.train_router = true,
                                 .router_aux_loss_scope = trainer::BalanceScope::MicroBatch};
  const bool in_documents = GENERATE(false, true);
  (in_documents ? config.router_seq_aux_loss_coef : config.router_aux_loss_coef) = 0.5;
  CAPTURE(name, in_documents);
  const Setting setting(name);
  const auto batches = two_batches(setting);
  const auto gradients = [&] {
    std::vector<at::Tensor> out;
    for (const auto& router : setting.adapter->routers()) {
      out.push_back(kGradient(router->weight()).clone());
      router->weight().mutable_grad().zero_();
    }
    return out;
  };
  const auto world = distributed::make_single_group();
  const auto mesh = distributed::make_mesh(*world, {});
  trainer::RouterBalance balance(config, *setting.model, mesh);
  // A share of 0 leaves the cross-entropy out.
  OneRankReduction alone(mesh);
  balance.pass(*setting.model, *setting.adapter, /*seed=*/1, /*step=*/1, {})(batches, at::zeros({}),
                                                                             alone.reduction);
  const auto found = gradients();
  balancing_loss(setting, config, batches).backward();
  const auto expected = gradients();
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(expected[i].abs().max().item<double>() > 1e-5);
    CHECK(at::allclose(found[i], expected[i], 1e-4, 1e-8));
  }
}
