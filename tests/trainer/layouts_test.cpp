// One job on every layout of ranks: the same losses and gradient norms, step by step.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <optional>
#include <tuple>

#include "models/files/pretrained.hpp"
#include "models/kernels/random.hpp"
#include "models/layers/decoder.hpp"
#include "tests/support/on_ranks.hpp"
#include "trainer/parallel/placement.hpp"
#include "trainer/parallel/spread_model.hpp"
#include "trainer/sft/router_balance.hpp"
#include "trainer/sft/step.hpp"

namespace tailor::trainer {
namespace {

using distributed::Group;
using distributed::MeshSizes;

constexpr std::int64_t kVocabulary = 96, kSteps = 20, kRows = 8;

/// Small, though all jobs learn with it. Adam divides a gradient by its own size, so that one which
/// is rounding alone moves its parameter by a part of the rate, and what two layouts round apart
/// grows with it: over all layouts below the norms of gradients differ by up to 3e-6 at this rate,
/// by 5e-5 at 1e-3 and by 1e-4 at 3e-3; those of the first step, before any update, by 4e-7.
constexpr double kLearningRate = 3e-4;

constexpr auto kDense = R"({"model_type": "llama", "vocab_size": 96, "hidden_size": 32,
  "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
  "intermediate_size": 48, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
  "hidden_act": "silu", "tie_word_embeddings": true})";
constexpr auto kQwen3Moe = R"({"model_type": "qwen3_moe", "vocab_size": 96, "hidden_size": 32,
  "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
  "intermediate_size": 48, "moe_intermediate_size": 16, "num_experts": 8,
  "num_experts_per_tok": 2, "norm_topk_prob": true, "decoder_sparse_step": 1,
  "mlp_only_layers": [], "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
  "hidden_act": "silu", "tie_word_embeddings": false})";

constexpr auto kDeepSeek = R"({"model_type": "deepseek_v3", "vocab_size": 96, "hidden_size": 32,
  "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
  "first_k_dense_replace": 1, "intermediate_size": 48, "moe_intermediate_size": 16,
  "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2,
  "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "q_lora_rank": 20,
  "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
  "rope_interleave": true, "tie_word_embeddings": false})";

/// Weights that are a function of their names: every rank and every layout sees the same model.
class NamedWeights final : public models::TensorSource {
 public:
  explicit NamedWeights(models::CausalLM& model) {
    for (const auto& parameter : model.parameters())
      entries_.push_back({.name = parameter.name, .dtype = "F32", .shape = parameter.shape});
  }
  const std::vector<models::TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return find(name) != nullptr; }
  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    const auto* entry = find(name);
    if (entry == nullptr) throw models::FileError(name + ": no such tensor");
    auto value = at::empty(entry->shape, at::kFloat);
    const auto stream = models::kernels::stream_of(name, {});
    auto* x = value.mutable_data_ptr<float>();
    const bool is_norm = entry->shape.size() == 1;
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      const auto words =
          models::kernels::random_words(/*seed=*/5, stream, static_cast<std::uint64_t>(i));
      const auto uniform = static_cast<float>(words[0]) / 4294967296.0F - 0.5F;
      x[i] = is_norm ? 1.0F + 0.2F * uniform : 0.5F * uniform;
    }
    return value.to(dtype);
  }

 private:
  const models::TensorEntry* find(const std::string& name) const {
    for (const auto& entry : entries_)
      if (entry.name == name) return &entry;
    return nullptr;
  }
  std::vector<models::TensorEntry> entries_;
};

models::Pretrained pretrained(const std::string& config) {
  models::Pretrained out;
  out.path = out.config_file = "config.json";
  out.config_json = config;
  out.tensors = std::make_shared<NamedWeights>(*models::make_causal_lm(config, "config.json"));
  return out;
}

/// Linear layers' and experts' matrices.
bool is_divided(const std::string& name) { return name.find("_proj.weight") != std::string::npos; }

std::int64_t numel_of(const models::TensorEntry& entry) {
  std::int64_t out = 1;
  for (const auto extent : entry.shape) out *= extent;
  return out;
}

/// Counts what is asked for of the matrices that ranks divide.
class CountedWeights final : public models::TensorSource {
 public:
  explicit CountedWeights(std::shared_ptr<const models::TensorSource> inner)
      : inner_(std::move(inner)) {}
  const std::vector<models::TensorEntry>& entries() const override { return inner_->entries(); }
  bool contains(const std::string& name) const override { return inner_->contains(name); }
  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    return counted(name, inner_->read(name, dtype));
  }
  at::Tensor read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                        std::int64_t begin, std::int64_t length) const override {
    return counted(name, inner_->read_slice(name, dtype, dim, begin, length));
  }
  at::Tensor read_part(const std::string& name, at::ScalarType dtype,
                       const std::vector<models::TensorRange>& ranges) const override {
    return counted(name, inner_->read_part(name, dtype, ranges));
  }
  std::int64_t elements() const { return elements_; }

 private:
  at::Tensor counted(const std::string& name, at::Tensor value) const {
    if (is_divided(name)) elements_ += value.numel();
    return value;
  }
  std::shared_ptr<const models::TensorSource> inner_;
  mutable std::int64_t elements_ = 0;
};

/// Documents of uneven lengths, so that ranks have unequal work.
std::vector<Example> documents() {
  std::vector<Example> out;
  for (std::int64_t d = 0; d < 2 * kRows; ++d) {
    Example example;
    for (std::int64_t t = 0; t < 5 + (d * 7) % 13; ++t) {
      example.ids.push_back((d * 31 + t * t * 3 + t * (d % 5)) % kVocabulary);
      example.labels.push_back(t % 4 == 1 ? kIgnore : example.ids.back());
    }
    out.push_back(std::move(example));
  }
  return out;
}

struct Curve {
  std::vector<double> losses, norms;
  std::vector<std::int64_t> correct;
  std::vector<double> balance;       // what is told of routers, step by step
  NamedTensors adapter;              // of rank 0, correction biases too
  std::vector<std::string> targets;  // likewise: what its file calls target_modules
};

struct Job {
  std::string config;
  peft::LoraConfig lora;
  RouterTraining router = {};
};

Job job(const std::string& config, double dropout = 0.0) {
  Job out{.config = config, .lora = {}};
  out.lora.r = 4;
  out.lora.lora_alpha = 8;
  out.lora.lora_dropout = dropout;
  out.lora.target_modules = {"all-linear"};
  out.lora.target_is_pattern = true;
  out.lora.init_lora_weights =
      peft::InitLora::Random;  // B is not zero: a delta counted twice shows
  return out;
}

/// Every loss, and biases that move.
Job router_job(const std::string& config, BalanceScope scope) {
  auto out = job(config);
  out.lora.train_router = true;
  out.router = {.train_router = true,
                .router_aux_loss_coef = 0.1,
                .router_aux_loss_scope = scope,
                .router_seq_aux_loss_coef = 0.05,
                .router_z_loss_coef = 0.01,
                .router_bias_update_rate = 1e-3,
                .bias_place = {}};
  return out;
}

/// Frozen routers, and experts that drop a good part of what they are sent.
Job capacity_job(const std::string& config) {
  auto out = job(config);
  out.router.capacity = {.factor = 0.75};
  return out;
}

Curve train(const Job& job, const std::vector<Example>& examples, Group& world,
            const MeshSizes& sizes) {
  const auto mesh = distributed::make_mesh(world, sizes);
  const auto base = pretrained(job.config);
  auto model = models::make_causal_lm(base.config_json, base.config_file);
  const auto whole = peft::module_paths_of(*model);
  const auto take = spread_model(*model, mesh);
  models::load_parameters(*model, base, at::kFloat, models::kernels::Arithmetic::Float32, take);
  peft::LoraAdapter adapter(*model, job.lora, /*seed=*/3, "peft.target_modules", &whole);

  const auto trainables = ordered_trainables(adapter);
  FlatParameters::Named named;
  for (const auto& trainable : trainables) named.emplace_back(trainable.name, trainable.value);
  FlatParameters trainable(named);
  // Small buckets begin between the layers' own calls.
  const GradientSync sync(mesh, trainables, /*bucket_elements=*/64);
  AdamW optimizer(trainable, {});
  const auto vocabulary = vocabulary_part(*model, mesh);
  std::optional<RouterBalance> balance;
  if (!job.router.is_default()) balance.emplace(job.router, *model, mesh);

  Curve curve;
  const auto rows = kRows / mesh.sizes.data();
  for (std::int64_t step = 0; step < kSteps; ++step) {
    std::vector<const Example*> own;
    std::int64_t first_token = 0;
    for (std::int64_t i = 0; i < kRows; ++i) {
      const auto& example = examples[static_cast<std::size_t>(step % 2 * kRows + i)];
      const auto rank = i / rows;
      if (rank == mesh.data->rank()) own.push_back(&example);
      if (rank < mesh.data->rank()) first_token += static_cast<std::int64_t>(example.ids.size());
    }
    const auto pass =
        balance ? balance->pass(*model, adapter, /*seed=*/11, step + 1, vocabulary)
        : sizes.pp > 1
            ? in_stages(*model, adapter, /*seed=*/11, step + 1, mesh, vocabulary)
            : one_by_one(adapted_loss(*model, adapter, /*seed=*/11, step + 1, vocabulary));
    const auto report = sft_step(pass, trainable, optimizer, own, sync,
                                 {.step = step + 1,
                                  .learning_rate = kLearningRate,
                                  .max_grad_norm = 1.0,
                                  .micro_batch_tokens = 40,
                                  .row_multiple = sizes.tp,
                                  .first_token = first_token,
                                  .expert_capacity = job.router.capacity});
    curve.losses.push_back(report.loss);
    curve.norms.push_back(report.grad_norm);
    curve.correct.push_back(report.num_correct);
    if (balance)
      for (const auto& metric : balance->finish_step()) curve.balance.push_back(metric.number());
  }
  const auto files = gather_adapter(adapter, "", world, mesh);
  curve.adapter.assign(files.factors.begin(), files.factors.end());
  curve.adapter.insert(curve.adapter.end(), files.saved.begin(), files.saved.end());
  curve.targets = files.listed_targets;
  return curve;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double out = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i)
    out = std::max(out, std::abs(a[i] - b[i]) / std::max(1e-3, std::abs(b[i])));
  return a.size() == b.size() ? out : INFINITY;
}

void check_layouts(const Job& job, const std::vector<MeshSizes>& layouts) {
  // Sums over ranks and over a cut width are added up in another order: a few float32 roundings.
  constexpr double kRelative = 1e-5;
  const auto examples = documents();
  const auto alone =
      distributed::on_ranks(1, [&](Group& world) { return train(job, examples, world, {}); })[0];
  CHECK(alone.losses[18] < 0.97 * alone.losses[0]);                         // the same rows
  if (job.router.capacity.factor > 0.0) CHECK(alone.balance.back() > 0.1);  // router/dropped
  for (const auto& sizes : layouts) {
    CAPTURE(distributed::describe(sizes));
    const auto curves = distributed::on_ranks(
        sizes.world(), [&](Group& world) { return train(job, examples, world, sizes); });
    for (const auto& curve : curves) {
      CHECK(largest_difference(curve.losses, alone.losses) < kRelative);
      CHECK(largest_difference(curve.norms, alone.norms) < kRelative);
      CHECK(curve.correct == alone.correct);
      CHECK(largest_difference(curve.balance, alone.balance) < kRelative);
    }
    CHECK(curves[0].targets == alone.targets);
    REQUIRE(curves[0].adapter.size() == alone.adapter.size());
    for (std::size_t i = 0; i < alone.adapter.size(); ++i) {
      CHECK(curves[0].adapter[i].first == alone.adapter[i].first);
      // An entry whose gradient is rounding alone; one whose gradient is wrong is steps away.
      CHECK((curves[0].adapter[i].second - alone.adapter[i].second).abs().max().item<double>() <
            kLearningRate / 3);
    }
  }
}

}  // namespace

TEST_CASE("a dense model trains alike on every layout") {
  check_layouts(job(kDense), {{.dp = 2},
                              {.dp = 4},
                              {.tp = 2},
                              {.tp = 4},
                              {.dp = 2, .tp = 2},
                              {.pp = 2},
                              {.pp = 4},
                              {.dp = 2, .pp = 2},
                              {.tp = 2, .pp = 2},
                              {.dp = 2, .dp_shard = 2},
                              {.dp = 4, .dp_shard = 2},
                              {.dp = 2, .tp = 2, .dp_shard = 2},
                              {.dp = 2, .pp = 2, .dp_shard = 2}});
}

TEST_CASE("dropout masks do not depend on the layout") {
  check_layouts(job(kDense, 0.25), {{.dp = 2}, {.tp = 2}, {.dp = 2, .tp = 2}, {.pp = 2}});
}

TEST_CASE("sparse models train alike on every layout") {
  const auto* config = GENERATE(kQwen3Moe, kDeepSeek);
  check_layouts(job(config), {{.dp = 2},
                              {.dp = 4},
                              {.ep = 2},
                              {.ep = 4},
                              {.tp = 2},
                              {.tp = 4},
                              {.dp = 2, .ep = 2},
                              {.tp = 2, .ep = 2},
                              {.dp = 2, .tp = 2},
                              {.pp = 2},
                              {.pp = 4},
                              {.dp = 2, .pp = 2},
                              {.ep = 2, .pp = 2},
                              {.dp = 2, .dp_shard = 2},
                              {.dp = 2, .ep = 2, .dp_shard = 2},
                              {.dp = 2, .ep = 2, .dp_shard = 4}});
}

TEST_CASE("trained routers and their losses are alike on every layout") {
  const auto* config = GENERATE(kQwen3Moe, kDeepSeek);
  check_layouts(router_job(config, BalanceScope::GlobalBatch), {{.dp = 2},
                                                                {.dp = 4},
                                                                {.ep = 2},
                                                                {.tp = 2},
                                                                {.dp = 2, .ep = 2},
                                                                {.tp = 2, .ep = 2},
                                                                {.pp = 2},
                                                                {.ep = 2, .pp = 2},
                                                                {.dp = 2, .dp_shard = 2}});
}

TEST_CASE("factors that experts share train alike on every layout") {
  const auto* config = GENERATE(kQwen3Moe, kDeepSeek);
  auto shared = job(config);
  shared.lora.expert_lora = GENERATE(peft::ExpertLora::Shared, peft::ExpertLora::SharedOuter);
  check_layouts(shared, {{.ep = 2},
                         {.tp = 2},
                         {.dp = 2, .ep = 2},
                         {.tp = 2, .ep = 2},
                         {.pp = 2},
                         {.dp = 2, .ep = 2, .dp_shard = 2}});
}

TEST_CASE("what experts drop is alike on every layout") {
  check_layouts(
      capacity_job(kQwen3Moe),
      {{.dp = 2, .dp_shard = 2}, {.tp = 2, .ep = 2}, {.dp = 2, .ep = 2}, {.ep = 2, .pp = 2}});
  check_layouts(capacity_job(kDeepSeek), {{.ep = 2}});
}

TEST_CASE("targets may lie on some stages of a pipeline alone") {
  auto few = job(kDense);
  few.lora.target_modules = {R"(model\.layers\.[23]\..*_proj)"};
  check_layouts(few, {{.pp = 2}, {.pp = 4}, {.dp = 2, .pp = 2}, {.dp = 2, .dp_shard = 2}});
  auto experts = job(kDeepSeek);  // whose first layer is dense
  experts.lora.target_modules = {R"(.*\.mlp\.experts\..*)"};
  check_layouts(experts, {{.pp = 4}, {.ep = 2}});
  auto all_but_one = job(kDense);  // on the last stage
  all_but_one.lora.exclude_modules = {"layers.3.self_attn.q_proj"};
  check_layouts(all_but_one, {{.pp = 2}});
}

TEST_CASE("balance within a micro-batch does not depend on ranks that see the same one") {
  check_layouts(router_job(kQwen3Moe, BalanceScope::MicroBatch),
                {{.tp = 2}, {.pp = 2}, {.tp = 2, .pp = 2}});
}

TEST_CASE("a layout that the model does not have the parts for is refused by setting and layer") {
  const auto refusal = [](const char* config, const MeshSizes& sizes) {
    return distributed::on_ranks(sizes.world(), [&](Group& world) -> std::string {
      const auto mesh = distributed::make_mesh(world, sizes);
      const auto model = models::make_causal_lm(config, "config.json");
      try {
        spread_model(*model, mesh);
      } catch (const configs::ConfigError& error) {
        return error.what();
      }
      return "accepted";
    })[0];
  };
  CHECK(refusal(kDense, {.tp = 3}) ==
        "tensor_parallel_size 3: expected a divisor of the 4 heads of "
        "model.layers.0.self_attn.q_proj");
  CHECK(refusal(kQwen3Moe, {.ep = 3}) ==
        "expert_parallel_size 3: expected a divisor of the 8 experts of a layer");
  CHECK(refusal(kDense, {.ep = 2}) ==
        "expert_parallel_size 2: llama has no experts; leave it at 1");
  CHECK(refusal(kDense, {.pp = 5}) ==
        "pipeline_parallel_size 5: expected at most one stage a layer, the model has 4");
}

TEST_CASE("ranks that divide the base read their parts of its matrices alone") {
  const auto* config = GENERATE(kDense, kQwen3Moe);
  for (const auto& sizes : {MeshSizes{.dp = 4, .dp_shard = 4}, {.dp = 2, .tp = 2, .dp_shard = 2}}) {
    const auto read = distributed::on_ranks(4, [&](Group& world) {
      const auto mesh = distributed::make_mesh(world, sizes);
      auto files = pretrained(config);
      const auto model = models::make_causal_lm(files.config_json, files.config_file);
      const auto take = spread_model(*model, mesh);
      auto weights = std::make_shared<CountedWeights>(files.tensors);
      files.tensors = weights;
      models::load_parameters(*model, files, at::kFloat, models::kernels::Arithmetic::Float32,
                              take);
      std::int64_t all = 0;
      for (const auto& entry : files.tensors->entries())
        if (is_divided(entry.name)) all += numel_of(entry);
      return std::pair(weights->elements(), all);
    });
    std::int64_t total = 0;
    for (const auto& [elements, all] : read) {
      CHECK(elements < all / 4 + all / 16);  // whole rows
      total += elements;
    }
    CHECK(total >= read[0].second);
  }
}

TEST_CASE(
    "a divided base is in memory for the layer that is computed alone, and a part of it else") {
  const auto held = distributed::on_ranks(2, [&](Group& world) {
    const auto mesh = distributed::make_mesh(world, {.dp = 2, .dp_shard = 2});
    const auto files = pretrained(kDense);
    const auto model = models::make_causal_lm(files.config_json, files.config_file);
    const auto take = spread_model(*model, mesh);
    models::load_parameters(*model, files, at::kFloat, models::kernels::Arithmetic::Float32, take);
    const auto layer_bytes = [&] {
      std::size_t bytes = 0;
      for (const auto& seat : model->decoder()->slots())
        bytes += seat.slot->layer().weight().stored().storage().nbytes();
      return bytes;
    };
    const auto before = layer_bytes();
    const at::NoGradGuard no_grad;
    const auto hidden = model->hidden_states(models::pack({{1, 2, 3}, {4, 5}}));
    return std::tuple(before, layer_bytes(), hidden.isfinite().all().item<bool>());
  });
  for (const auto& [before, behind, finite] : held) {
    CHECK(before == 0);
    CHECK(behind == 0);
    CHECK(finite);
  }
}

}  // namespace tailor::trainer
