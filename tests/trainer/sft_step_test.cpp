#include "trainer/sft/step.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>
#include <limits>

#include "trainer/parallel/l2_norm.hpp"
#include "trainer/sft/loop.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

constexpr std::int64_t kVocabulary = 11;

/// A job on one rank whose flat tensors have `num_elements` elements.
class OneRank {
 public:
  explicit OneRank(std::int64_t num_elements)
      : world_(distributed::make_single_group()),
        mesh_(distributed::make_mesh(*world_, {})),
        sync(mesh_, std::vector<GradientSync::Bucket>{{{}, num_elements, 1, 0}}) {}

 private:
  std::unique_ptr<distributed::Group> world_;
  distributed::Mesh mesh_;

 public:
  GradientSync sync;
};

/// A model of one table: the logits of a token are the row of its id.
class Table {
 public:
  explicit Table(const at::Tensor& initial)
      : table_(initial.clone().set_requires_grad(true)),
        trainable({{"table", table_}}),
        optimizer(trainable, {}) {}

  BatchLoss loss() {
    return [this](const LabelledBatch& batch, std::int64_t first_token) {
      first_tokens.push_back(first_token);
      const auto logits_TV = at::embedding(table_, batch.ids_T);
      const auto loss =
          at::nll_loss(at::log_softmax(logits_TV, -1), batch.targets_T, {}, /*reduction=sum*/ 2);
      return SummedLoss{
          .loss = loss * factor,
          .sums = {.loss = loss.item<double>() * factor, .num_tokens = batch.num_supervised}};
    };
  }
  StepReport step(const std::vector<const Example*>& documents, double max_grad_norm = 0.0) {
    const OneRank rank(trainable.values().numel());
    return sft_step(one_by_one(loss()), trainable, optimizer, documents, rank.sync,
                    {.step = 7,
                     .learning_rate = 0.1,
                     .max_grad_norm = max_grad_norm,
                     .micro_batch_tokens = 512});
  }

 private:
  at::Tensor table_;

 public:
  FlatParameters trainable;
  AdamW optimizer;
  double factor = 1.0;
  std::vector<std::int64_t> first_tokens;
};

/// `length` tokens, the last `supervised` of them learnt.
Example example(std::int64_t length, std::int64_t supervised, std::int64_t seed) {
  Example out;
  for (std::int64_t t = 0; t < length; ++t) {
    out.ids.push_back((seed * 7 + t * t + 3 * t) % kVocabulary);
    out.labels.push_back(t < length - supervised ? kIgnore : out.ids.back());
  }
  return out;
}

std::vector<const Example*> pointers(const std::vector<Example>& examples) {
  std::vector<const Example*> out;
  for (const auto& e : examples) out.push_back(&e);
  return out;
}

}  // namespace

TEST_CASE("the loss of a step is the mean over its supervised tokens, not over its batches") {
  Table uniform(at::zeros({kVocabulary, kVocabulary}));
  // Two micro-batches, one with two supervised tokens, one with 599.
  const std::vector<Example> examples{example(700, 2, 1), example(600, 600, 2)};
  const auto report = uniform.step(pointers(examples));
  CHECK(report.loss == Approx(std::log(double{kVocabulary})));
  CHECK(report.num_tokens == 1300);
  CHECK(report.num_supervised == 601);
  CHECK(uniform.first_tokens == std::vector<std::int64_t>{0, 700});
}

TEST_CASE("a step cut into micro-batches gives the gradient of the uncut one") {
  const auto initial = at::randn({kVocabulary, kVocabulary});
  std::vector<Example> examples;
  for (std::int64_t i = 0; i < 30; ++i) examples.push_back(example(60 + 5 * i, 10 + i, i));
  Table cut_table(initial);
  const auto report = cut_table.step(pointers(examples));
  CHECK(cut_table.first_tokens.size() > 3);

  Table whole(initial);
  const auto batch = make_batch(pointers(examples));
  const auto part = whole.loss()(batch, 0);
  part.loss.backward();
  whole.trainable.gradients().div_(static_cast<double>(report.num_supervised));
  const auto difference =
      (whole.trainable.gradients() - cut_table.trainable.gradients()).to(at::kDouble);
  CHECK(difference.abs().max().item<double>() < 1e-7);
  CHECK(std::abs(difference.mean().item<double>()) < 1e-8);
  CHECK(report.loss == Approx(part.sums.loss / static_cast<double>(report.num_supervised)));
}

TEST_CASE("documents are cut in order into batches that hold no more than asked for") {
  const auto lengths = [](std::vector<std::int64_t> given) {
    std::vector<Example> examples;
    for (const auto length : given) examples.push_back(example(length, 1, 0));
    std::vector<std::int64_t> out;
    for (const auto& micro_batch : cut(pointers(examples), 600)) {
      out.push_back(0);
      for (const auto* document : micro_batch.documents)
        out.back() += static_cast<std::int64_t>(document->ids.size());
    }
    return out;
  };
  using Lengths = std::vector<std::int64_t>;
  CHECK(lengths({512, 512, 512}) == Lengths{512, 512, 512});
  CHECK(lengths({300, 300, 300}) == Lengths{600, 300});
  CHECK(lengths({500, 101}) == Lengths{500, 101});
  CHECK(lengths({100, 2000, 100}) == Lengths{100, 2000, 100});
  CHECK(lengths(Lengths(10, 100)) == Lengths{600, 400});
  CHECK(lengths({}).empty());
}

TEST_CASE("gradients are clipped to the norm and reported before") {
  std::vector<Example> examples{example(50, 40, 1)};
  const auto initial = at::randn({kVocabulary, kVocabulary});
  Table free(initial), clipped(initial), wide(initial);
  const auto norm = free.step(pointers(examples)).grad_norm;
  CHECK(clipped.step(pointers(examples), norm / 4).grad_norm == norm);
  wide.step(pointers(examples), norm * 2);
  CHECK(l2_norm(clipped.optimizer.first_moment()) ==
        Approx(l2_norm(free.optimizer.first_moment()) / 4).epsilon(1e-4));
  CHECK(at::equal(wide.trainable.values(), free.trainable.values()));
}

TEST_CASE("a step without supervised tokens stops before the parameters change") {
  Table table(at::randn({kVocabulary, kVocabulary}));
  const auto before = table.trainable.values().clone();
  // The first token of a document is predicted by nothing: its label counts for nothing.
  Example only_first{.ids = {1, 2}, .labels = {1, kIgnore}};
  CHECK_THROWS_AS(table.step({&only_first}), NumericError);
  CHECK_THROWS_WITH(table.step({&only_first}),
                    Catch::Contains("step 7") && Catch::Contains("supervised"));
  CHECK(at::equal(table.trainable.values(), before));
  CHECK(table.optimizer.num_updates() == 0);
}

TEST_CASE("a loss that is not finite stops before the parameters change") {
  Table table(at::randn({kVocabulary, kVocabulary}));
  const auto before = table.trainable.values().clone();
  table.factor =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity());
  const std::vector<Example> examples{example(20, 10, 1)};
  CHECK_THROWS_WITH(table.step(pointers(examples)),
                    Catch::Contains("step 7") && Catch::Contains("the loss is"));
  CHECK(at::equal(table.trainable.values(), before));
}

TEST_CASE("a gradient that overflows stops although the loss is finite") {
  Table table(at::randn({kVocabulary, kVocabulary}));
  const std::vector<Example> examples{example(20, 10, 1)};
  auto plain = table.loss();
  const BatchLoss overflowing = [&](const LabelledBatch& batch, std::int64_t first_token) {
    auto part = plain(batch, first_token);
    part.loss = part.loss * 1e38 * 1e38;  // backward multiplies beyond float32
    return part;
  };
  const OneRank rank(table.trainable.values().numel());
  CHECK_THROWS_WITH(sft_step(one_by_one(overflowing), table.trainable, table.optimizer,
                             pointers(examples), rank.sync, {.step = 7, .learning_rate = 0.1}),
                    Catch::Contains("the gradient norm is"));
}

TEST_CASE("the number of steps covers the epochs") {
  TrainConfig config;
  config.per_device_train_batch_size = 4;
  config.gradient_accumulation_steps = 2;
  config.num_train_epochs = 3.0;
  CHECK(total_steps(config, 16, 1) == 6);
  CHECK(total_steps(config, 17, 1) == 7);
  CHECK(total_steps(config, 16, 2) == 3);
  config.num_train_epochs = 0.01;
  CHECK(total_steps(config, 16, 1) == 1);
  config.max_steps = 123;
  CHECK(total_steps(config, 16, 1) == 123);
}

}  // namespace tailor::trainer
