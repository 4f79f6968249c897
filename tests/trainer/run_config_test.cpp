#include "trainer/run_config.hpp"

#include <catch2/catch.hpp>

#include "job_workspace.hpp"

namespace fs = std::filesystem;
using namespace tailor::trainer;
using tailor::configs::ConfigError;
using tailor::configs::Document;

namespace {

/// A job whose section `train` (line 4) holds `text`.
std::string with_train(const std::string& text) { return kSmall + "train: {" + text + "}\n"; }
std::string with_peft(const std::string& text) { return kSmall + "peft: {" + text + "}\n"; }

}  // namespace

TEST_CASE("the smallest job has the documented defaults", "[trainer]") {
  const Workspace workspace;
  const auto config = workspace.read(kSmall);
  CHECK(config.task == "sft");
  CHECK(config.model.name_or_path == workspace.dir / "model");
  CHECK(config.model.dtype == "bfloat16");
  REQUIRE(config.peft);
  CHECK(config.peft->r == 16);
  CHECK(config.peft->lora_alpha == 32.0);
  CHECK(config.peft->target_modules == std::vector<std::string>{"all-linear"});
  CHECK(config.peft->target_is_pattern);
  REQUIRE(config.data.train.size() == 1);
  CHECK(config.data.train[0].path == workspace.dir / "train.jsonl");
  CHECK(config.data.train[0].format == DataFormat::Messages);
  CHECK(workspace.relative(config.data.train[0].place) == "job.yaml:2:16: data.train[0]");
  CHECK(config.data.eval.empty());
  CHECK(config.data.max_length == 1024);
  CHECK(config.train.learning_rate == 2e-4);
  CHECK(config.train.lr_scheduler_type == Schedule::Cosine);
  CHECK_FALSE(config.train.warmup_steps);
  CHECK_FALSE(config.train.max_steps);
  CHECK(config.train.num_train_epochs == 3.0);
  CHECK(config.train.seed == 42);
  CHECK(config.output.dir == workspace.dir / "run");
  CHECK(config.output.save_total_limit == 3);
  CHECK((config.output.jsonl && config.output.tensorboard && config.output.resume));
  CHECK(config.notes.empty());
}

TEST_CASE("every key of a job is read", "[trainer]") {
  const Workspace workspace;
  const auto config = workspace.read(R"(
task: sft
model: {name_or_path: model, dtype: float32, compute_dtype: float32, device: cpu}
peft:
  method: lora
  r: 8
  lora_alpha: 8.5
  lora_dropout: 0.1
  use_rslora: true
  target_modules: [q_proj, v_proj]
  exclude_modules: layers\.0\..*
  rank_pattern: {q_proj: 4}
  alpha_pattern: {v_proj: 2.5}
  init_lora_weights: gaussian
  adapter_path: adapter
data:
  train: [{path: train.jsonl, format: text}, {path: test.jsonl, format: tokens}]
  eval: [{path: test.jsonl, format: prompt_completion}]
  max_length: 512
  packing: false
  assistant_only_loss: false
  completion_only_loss: false
  over_length: drop
  shuffle: false
train:
  learning_rate: 1e-3
  lr_scheduler_type: wsd
  warmup_steps: 5
  decay_ratio: 0.2
  min_lr_ratio: 0.1
  max_steps: 50
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 4
  max_grad_norm: 0
  weight_decay: 0.01
  adam_beta1: 0.8
  adam_beta2: 0.95
  adam_epsilon: 1e-6
  max_loss: 20
  max_loss_patience: 5
  seed: 7
  threads: 2
parallel: {tensor_parallel_size: 1}
output:
  dir: run
  save_steps: 0
  save_total_limit: 1
  logging_steps: 2
  eval_steps: 0
  report_to: tensorboard
  log_on_each_rank: true
  resume_from_checkpoint: false
)");
  const auto& lora = *config.peft;
  CHECK(config.model.dtype == "float32");
  CHECK(config.model.compute_dtype == "float32");
  CHECK(config.model.device == "cpu");
  CHECK(lora.r == 8);
  CHECK(lora.lora_alpha == 8.5);
  CHECK(lora.lora_dropout == 0.1);
  CHECK(lora.use_rslora);
  CHECK(lora.target_modules == std::vector<std::string>{"q_proj", "v_proj"});
  CHECK_FALSE(lora.target_is_pattern);
  CHECK(lora.exclude_modules == std::vector<std::string>{"layers\\.0\\..*"});
  CHECK(lora.exclude_is_pattern);
  CHECK(lora.rank_of("model.layers.3.self_attn.q_proj") == 4);
  CHECK(lora.alpha_of("model.layers.3.self_attn.v_proj") == 2.5);
  CHECK(lora.init_lora_weights == tailor::peft::InitLora::Gaussian);
  CHECK(config.adapter_path == workspace.dir / "adapter");
  CHECK(config.data.train[0].format == DataFormat::Text);
  CHECK(config.data.train[1].format == DataFormat::Tokens);
  CHECK(config.data.eval[0].format == DataFormat::PromptCompletion);
  CHECK(config.data.max_length == 512);
  CHECK_FALSE((config.data.packing || config.data.assistant_only_loss ||
               config.data.completion_only_loss || config.data.shuffle));
  CHECK(config.data.over_length == OverLength::Drop);
  CHECK(config.train.lr_scheduler_type == Schedule::Wsd);
  CHECK(config.train.warmup_steps == 5);
  CHECK(config.train.decay_ratio == 0.2);
  CHECK(config.train.min_lr_ratio == 0.1);
  CHECK(config.train.max_steps == 50);
  CHECK(config.train.per_device_train_batch_size == 2);
  CHECK(config.train.gradient_accumulation_steps == 4);
  CHECK(config.train.max_grad_norm == 0.0);
  CHECK(config.train.weight_decay == 0.01);
  CHECK(config.train.adam_beta1 == 0.8);
  CHECK(config.train.adam_beta2 == 0.95);
  CHECK(config.train.adam_epsilon == 1e-6);
  CHECK(config.train.max_loss == 20.0);
  CHECK(config.train.max_loss_patience == 5);
  CHECK(config.train.seed == 7);
  CHECK(config.train.threads == 2);
  CHECK(config.output.save_steps == 0);
  CHECK(config.output.save_total_limit == 1);
  CHECK(config.output.logging_steps == 2);
  CHECK(config.output.eval_steps == 0);
  CHECK_FALSE((config.output.jsonl || config.output.resume));
  CHECK((config.output.tensorboard && config.output.log_on_each_rank));

  SECTION("and the resolved configuration reads back as the same") {
    CHECK(to_yaml(workspace.read(to_yaml(config))) == to_yaml(config));
    CHECK(to_yaml(config).find("adapter_path: \"" + (workspace.dir / "adapter").string()) !=
          std::string::npos);
  }
}

TEST_CASE("the resolved configuration of defaults and odd texts reads back as the same",
          "[trainer]") {
  const Workspace workspace;
  workspace.write("a \"b\": #\\1.jsonl", "{}\n");
  const auto config = workspace.read(
      "model: {name_or_path: model}\n"
      "data: {train: [{path: 'a \"b\": #\\1.jsonl'}]}\n"
      "train: {warmup_ratio: 0.03, num_train_epochs: 0.1, learning_rate: 3.0000000000000001e-5}\n"
      "output: {dir: 'null', report_to: none}\n");
  const auto again = workspace.read(to_yaml(config));
  CHECK(to_yaml(again) == to_yaml(config));
  CHECK(again.data.train[0].path == config.data.train[0].path);
  CHECK(again.train.learning_rate == config.train.learning_rate);
  CHECK(again.train.warmup_ratio == 0.03);
  CHECK(again.output.dir == workspace.dir / "null");
  CHECK_FALSE((again.output.jsonl || again.output.tensorboard));
}

TEST_CASE("a job without what it needs says all that is missing", "[trainer]") {
  const Workspace workspace;
  CHECK(workspace.errors("task: sft\n") ==
        "job.yaml:1:1: model.name_or_path: missing; expected text\n"
        "job.yaml:1:1: data.train: missing; expected a list of sections\n"
        "job.yaml:1:1: output.dir: missing; expected text");
  CHECK(workspace.errors("model: {name_or_path: model}\ndata: {train: []}\noutput: {dir: run}\n") ==
        "job.yaml:2:15: data.train: expected a list of sections, found an empty list");
  CHECK(workspace.errors(kSmall, {"data.train=train.jsonl"}) ==
        "--set data.train=train.jsonl: data.train: expected a list of files, as in [{path: "
        "data/train.jsonl, format: messages}], found \"train.jsonl\"");
}

TEST_CASE("paths that lead nowhere are named with their place", "[trainer]") {
  const Workspace workspace;
  CHECK(workspace.errors("model: {name_or_path: modle}\n"
                         "peft: {adapter_path: empty}\n"
                         "data:\n"
                         "  train:\n"
                         "  - path: trian.jsonl\n"
                         "  - path: nothing.jsonl\n"
                         "  - path: empty\n"
                         "  - path: no/such.jsonl\n"
                         "  - path: ''\n"
                         "  eval: [{path: 'x\\0'}]\n"
                         "output: {dir: train.jsonl}\n") ==
        "job.yaml:1:23: model.name_or_path: no such file or folder: modle; did you mean "
        "\"model\"? (a model is a Hugging Face folder or a GGUF file on this machine)\n"
        "job.yaml:2:22: peft.adapter_path: the folder has no adapter_config.json: empty\n"
        "job.yaml:5:11: data.train[0].path: no such file: trian.jsonl; did you mean "
        "\"train.jsonl\"?\n"
        "job.yaml:6:11: data.train[1].path: the file is empty: nothing.jsonl\n"
        "job.yaml:7:11: data.train[2].path: expected a file, found a folder: empty\n"
        "job.yaml:8:11: data.train[3].path: no such file: no/such.jsonl (there is no folder no)\n"
        "job.yaml:9:11: data.train[4].path: expected a path, found \"\"\n"
        "job.yaml:10:17: data.eval[0].path: no such file: x\\0\n"
        "job.yaml:11:15: output.dir: expected a folder, found a file: train.jsonl");
  CHECK(workspace.errors(kSmall, {"model.name_or_path=empty", "peft.adapter_path=train.jsonl",
                                  "output.dir=\"a\\0b\""}) ==
        "--set model.name_or_path=empty: model.name_or_path: the folder has no config.json: empty\n"
        "--set peft.adapter_path=train.jsonl: peft.adapter_path: expected an adapter's folder, "
        "found a file: train.jsonl\n"
        "--set output.dir=\"a\\0b\": output.dir: expected a path, found \"a\\x00b\"");
}

TEST_CASE("a job file that cannot be read is named", "[trainer]") {
  const Workspace workspace;
  const auto error = [&](const fs::path& file) -> std::string {
    try {
      read_run_config(file, {});
    } catch (const ConfigError& e) {
      return workspace.relative(e.what());
    }
    return "";
  };
  workspace.write("job.yaml", kSmall);
  CHECK(error(workspace.dir / "job.yaml") == "");
  CHECK(error(workspace.dir / "jbo.yaml") ==
        "jbo.yaml: no such file: jbo.yaml; did you mean \"job.yaml\"?");
  CHECK(error(workspace.dir / "empty") == "empty: expected a file, found a folder: empty");
  CHECK(error(workspace.dir / "nothing.jsonl") ==
        "nothing.jsonl: the file is empty: nothing.jsonl");
}

TEST_CASE("paths of an earlier run's configuration need not be there any more", "[trainer]") {
  const Workspace workspace;
  const auto text = to_yaml(workspace.read(kSmall, {"peft.adapter_path=adapter"}));
  for (const auto* name : {"model", "adapter", "train.jsonl"}) fs::remove_all(workspace.dir / name);
  const auto job = workspace.dir / "job.yaml";
  CHECK_THROWS_AS(parse_run_config(text, job, {}), ConfigError);
  const auto config = parse_run_config(text, job, {}, Paths::AsWritten);
  CHECK(config.model.name_or_path == workspace.dir / "model");
  CHECK(config.adapter_path == workspace.dir / "adapter");
  CHECK(config.data.train.at(0).path == workspace.dir / "train.jsonl");
  CHECK_THROWS_AS(parse_run_config(text, job, {"train.seed=-1"}, Paths::AsWritten), ConfigError);
}

TEST_CASE("warm-up is given in steps or as a share", "[trainer]") {
  const Workspace workspace;
  CHECK(workspace.read(with_train("warmup_steps: 1")).train.warmup_steps == 1);
  CHECK(workspace.read(with_train("warmup_steps: 0")).train.warmup_steps == 0);
  const auto share = workspace.read(with_train("warmup_steps: 0.05")).train;
  CHECK_FALSE(share.warmup_steps);
  CHECK(share.warmup_ratio == 0.05);
  for (const std::string wrong : {"1.0", "1.5"})
    CHECK(workspace.errors(with_train("warmup_steps: " + wrong)) ==
          "job.yaml:4:23: train.warmup_steps: expected a whole number of steps, or a share of them "
          "below 1, found \"" +
              wrong + '"');
  CHECK(workspace.errors(with_train("warmup_steps: 3, warmup_ratio: 0.1")) ==
        "job.yaml:4:40: train.warmup_ratio: means the same as warmup_steps, which is given too");
  CHECK(workspace.errors(with_train("warmup_ratio: 1")) ==
        "job.yaml:4:23: train.warmup_ratio: expected a number of at least 0 and below 1, found "
        "\"1\"");
}

TEST_CASE("values that contradict each other are refused", "[trainer]") {
  const Workspace workspace;
  CHECK(workspace.errors(with_train("warmup_steps: 10, max_steps: 10")) ==
        "job.yaml:4:23: train.warmup_steps: expected fewer steps than max_steps (10), found "
        "\"10\"");
  CHECK(workspace.errors(with_train("warmup_steps: 10, max_steps: -10")) ==
        "job.yaml:4:38: train.max_steps: expected a positive integer, found \"-10\"");
  CHECK(
      workspace.errors(with_train("lr_scheduler_type: wsd, warmup_ratio: 0.6, decay_ratio: 0.5")) ==
      "job.yaml:4:65: train.decay_ratio: expected warm-up and decay within all steps, found "
      "shares of 0.6 and 0.5");
  CHECK(workspace.errors(kSmall, {"model.dtype=float32", "model.compute_dtype=bfloat16"}) ==
        "--set model.compute_dtype=bfloat16: model.compute_dtype: expected auto or float32 where "
        "dtype is float32");
  CHECK_THAT(workspace.errors(kSmall, {"output.report_to=[html, tensorboard]"}),
             Catch::Contains("output.report_to: html needs jsonl, from which it is made"));
  CHECK_THAT(workspace.errors(kSmall, {"output.report_to=htm"}),
             Catch::Contains("did you mean \"html\""));
  auto text = kSmall;
  const auto page =
      workspace.read(text.insert(text.find("dir: run"), "report_to: [html, jsonl], "));
  CHECK((page.output.html && page.output.jsonl && !page.output.tensorboard));
  CHECK(workspace.read(to_yaml(page)).output.html);
  CHECK(workspace.errors(kSmall, {"output.report_to=[none, jsonl]"}) ==
        "--set output.report_to=[none, jsonl]: output.report_to: expected none alone, or without "
        "it");
  CHECK_FALSE(workspace.read(kSmall).output.log_on_each_rank);
  CHECK(workspace.errors(kSmall, {"output.log_on_each_rank=2"}) ==
        "--set output.log_on_each_rank=2: output.log_on_each_rank: expected true or false, found "
        "\"2\"");
  CHECK(workspace.errors(kSmall, {"output.save_total_limit=0"}) ==
        "--set output.save_total_limit=0: output.save_total_limit: expected a positive integer, "
        "found \"0\"");
}

TEST_CASE("settings without effect are told, not refused", "[trainer]") {
  const Workspace workspace;
  const auto notes = [&](const std::string& train) {
    std::string out;
    for (const auto& note : workspace.read(with_train(train)).notes)
      out += workspace.relative(note) + '\n';
    return out;
  };
  CHECK(notes("max_steps: 5, num_train_epochs: 2") ==
        "job.yaml:4:41: train.num_train_epochs: has no effect beside max_steps\n");
  CHECK(notes("decay_ratio: 0.2") ==
        "job.yaml:4:22: train.decay_ratio: has no effect without lr_scheduler_type wsd\n");
  CHECK(notes("lr_scheduler_type: constant, min_lr_ratio: 0.2") ==
        "job.yaml:4:52: train.min_lr_ratio: has no effect with lr_scheduler_type constant\n");
  CHECK(notes("num_epochs: 2") ==
        "job.yaml:4:9: train.num_epochs: read as train.num_train_epochs\n");
}

TEST_CASE("what this build does not do is refused with one message each", "[trainer]") {
  const Workspace workspace;
  CHECK(workspace.errors(kSmall + "grpo: {beta: 0}\n") ==
        "job.yaml:4:7: grpo: needs task: grpo; remove the section, or set the task");
  CHECK(workspace.errors(kSmall + "rewards: [{name: numeric_answer}]\n") ==
        "job.yaml:4:10: rewards: needs task: grpo; remove the section, or set the task");
  CHECK_THAT(workspace.errors(kSmall + "parallel: {dp: 2}\n"),
             Catch::Contains("job.yaml:4:16: parallel.dp: leave it out"));
  CHECK(workspace.errors("task: dpo\n" + kSmall) ==
        "job.yaml:1:7: task: expected one of sft, grpo, found \"dpo\"");
  CHECK(workspace.errors(with_peft("method: dora")) ==
        "job.yaml:4:16: peft.method: expected lora, found \"dora\"");
  CHECK(workspace.errors(with_train("gradient_checkpointing: true")) ==
        "job.yaml:4:9: train.gradient_checkpointing: unknown key");
}

TEST_CASE("the words of other programs are answered with ours", "[trainer]") {
  const Workspace workspace;
  CHECK(workspace.errors("model_name_or_path: x\n"
                         "output_dir: y\n"
                         "learning_rate: 1e-4\n"
                         "lora_r: 8\n"
                         "lora_target_modules: z\n"
                         "datasets: []\n"
                         "bf16: true\n" +
                         kSmall + "train: {lr: 1, optimizer: x, max_length: 5}\n") ==
        "job.yaml:1:1: model_name_or_path: unknown key; did you mean \"model.name_or_path\"?\n"
        "job.yaml:2:1: output_dir: unknown key; did you mean \"output.dir\"?\n"
        "job.yaml:3:1: learning_rate: unknown key; did you mean \"train.learning_rate\"?\n"
        "job.yaml:4:1: lora_r: unknown key; did you mean \"peft.r\"?\n"
        "job.yaml:5:1: lora_target_modules: unknown key; did you mean \"peft.target_modules\"?\n"
        "job.yaml:6:1: datasets: unknown key; did you mean \"data.train\"?\n"
        "job.yaml:7:1: bf16: unknown key; did you mean \"model.dtype\"?\n"
        "job.yaml:11:9: train.lr: unknown key; did you mean \"learning_rate\"?\n"
        "job.yaml:11:16: train.optimizer: unknown key\n"
        "job.yaml:11:30: train.max_length: unknown key; did you mean \"data.max_length\"?");
}

TEST_CASE("what the model may refuse later is known by its place", "[trainer]") {
  const Workspace workspace;
  const auto config = workspace.read(with_peft("r: 99, moe_rank: same"), {"peft.lora_dropout=0"});
  REQUIRE(config.peft);
  CHECK(workspace.relative(config.peft->places.at("r")) == "job.yaml:4:11: peft.r");
  CHECK(workspace.relative(config.peft->places.at("moe_rank")) == "job.yaml:4:25: peft.moe_rank");
  CHECK(config.peft->places.at("lora_dropout") == "--set peft.lora_dropout=0: peft.lora_dropout");
}

TEST_CASE("LoRA's values are checked as they are read", "[trainer]") {
  const Workspace workspace;
  const auto error = [&](const std::string& peft) {
    const auto text = workspace.errors(with_peft(peft));
    return text.substr(text.find("peft."));
  };
  CHECK(error("r: 0") == "peft.r: expected an integer from 1 to 1048576, found \"0\"");
  CHECK(error("lora_rank: 0") ==
        "peft.lora_rank: expected an integer from 1 to 1048576, found \"0\"");
  CHECK(error("lora_alpha: 0") == "peft.lora_alpha: expected a number above 0, found \"0\"");
  CHECK(error("lora_dropout: 1") ==
        "peft.lora_dropout: expected a number of at least 0 and below 1, found \"1\"");
  CHECK(error("target_modules: []") ==
        "peft.target_modules: expected the layers to adapt, found an empty list");
  CHECK(error("target_modules: 'a('")
            .starts_with("peft.target_modules: expected a regular expression, found \"a(\" ("));
  CHECK(error("rank_pattern: {'a(': 4}")
            .starts_with("peft.rank_pattern: expected a regular expression, found \"a(\" ("));
  CHECK(error("rank_pattern: {a: 4.5}") ==
        "peft.rank_pattern: expected a whole rank for \"a\", found \"4.5\"");
  CHECK(error("rank_pattern: {a: 0}") ==
        "peft.rank_pattern.a: expected a number of at least 1 and of at most 1048576, found \"0\"");
  CHECK(error("target_modules: '" + std::string(2000, '(') + "'") ==
        "peft.target_modules: expected a regular expression of at most 1000 bytes, found 2000");
  CHECK(error("exclude_modules: 'a{777777}'") ==
        "peft.exclude_modules: expected a regular expression with numbers of at most 5 digits, "
        "found \"a{777777}\"");
  CHECK(error("init_lora_weights: pissa") ==
        "peft.init_lora_weights: expected one of true, false, gaussian, found \"pissa\"");
  CHECK(error("init_lora_weights: 'true'") ==
        "peft.init_lora_weights: expected one of true, false, gaussian, found \"true\" in quotes");
}

TEST_CASE("the first pattern that matches a path decides its rank and scale", "[trainer]") {
  tailor::peft::LoraConfig config;  // r 16, lora_alpha 32
  config.rank_pattern = {{"q_proj", 4}, {"layers\\.1\\..*", 2}, {"model.layers.2.mlp", 9}};
  config.alpha_pattern = {{"up_proj|down_proj", 8.0}};
  CHECK(config.rank_of("model.layers.1.self_attn.q_proj") == 4);
  CHECK(config.rank_of("model.layers.1.mlp.up_proj") == 2);
  CHECK(config.rank_of("model.layers.2.mlp") == 9);
  CHECK(config.rank_of("model.layers.2.mlp.up_proj") == 16);
  CHECK(config.rank_of("model.layers.2.self_attn.xq_proj") == 16);
  CHECK(config.scale_of("model.layers.2.self_attn.v_proj") == 2.0);
  CHECK(config.scale_of("model.layers.1.self_attn.q_proj") == 8.0);
  CHECK(config.scale_of("model.layers.1.mlp.up_proj") == 4.0);
  config.use_rslora = true;
  CHECK(config.scale_of("model.layers.1.self_attn.q_proj") == 16.0);
  config.rank_pattern = {{"(", 4}};
  CHECK_THROWS_AS(config.rank_of("x"), ConfigError);
}

TEST_CASE("the schema knows every key of the resolved configuration", "[trainer]") {
  const Workspace workspace;
  const auto schema = Document::json(job_schema(), "schema");
  auto properties = schema.root().section("properties", true);
  const bool grpo = GENERATE(true, false);
  const auto text = grpo ? kGrpo : kSmall + "router: {train_router: true}\n";
  const auto job = Document::yaml(to_yaml(workspace.read(text)), "config.yaml");
  for (const auto& key : job.root().keys()) {
    REQUIRE(properties.has(key));
    if (key == "task" || key == "rewards") continue;
    auto known = properties.section(key).section("properties", true);
    for (const auto& inner : job.root().section(key).keys()) {
      INFO(key << '.' << inner);
      CHECK(known.has(inner));
    }
  }
  CHECK(schema.root().names("required") == std::vector<std::string>{"model", "data", "output"});
  CHECK_FALSE(schema.root().boolean("additionalProperties"));
  auto r = properties.section("peft").section("properties").section("r");
  CHECK(r.integer("minimum") == 1);
  CHECK(r.integer("default") == 16);
  CHECK_NOTHROW(schema.check());
}
