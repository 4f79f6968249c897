#!/usr/bin/env python3
"""`tailor train` with task grpo on a tiny model: settings of advantages, loss, divergence and batches do what they say.

    grpo_settings_test.py PROGRAM MODEL [NAME...]
"""

import json
import pathlib
import statistics
import sys

from program import TIMES, Job, expect, run_tests, test

JOB = """\
task: grpo
model: {{name_or_path: {model}, dtype: float32}}
peft: {{r: 4, lora_alpha: 8, init_lora_weights: false}}
data: {{train: [{{path: prompts.jsonl}}]}}
grpo: {{num_generations: 4, max_completion_length: 8}}
rewards: [{{name: regex, pattern: "[aeiou]"}}]
train:
  learning_rate: 2.0e-3
  lr_scheduler_type: constant
  max_steps: {steps}
  per_device_train_batch_size: 16
  threads: 1
output: {{dir: {run}, save_steps: {save_steps}, eval_steps: {eval_steps}}}
"""
SCORES = """\
def vowels(completions, **rest):
    return [float(sum(c in "aeiou" for c in text)) for text in completions]


def letters(completions, **rest):
    return [sum(c.isalpha() for c in text) / 7 for text in completions]
"""
REWARDS = "rewards=[{python: scores.py:vowels}, {python: scores.py:letters, weight: 0.5}]"
EPSILON = 1e-4  # beside deviations


class Run(Job):
    def __init__(self, program, model, folder, name, steps):
        super().__init__(program, model, folder, name, steps, save_steps=0, eval_steps=0, job=JOB)
        (folder / "scores.py").write_text(SCORES)

    def train(self, *settings, code=0):
        """What it says on standard error."""
        return self.finish(*(word for setting in settings for word in ("--set", setting)), code=code)[1]

    def lines(self, name="metrics.jsonl"):
        return [json.loads(line) for line in (self.run / name).read_text().splitlines()]

    def numbers(self):
        return [{key: value for key, value in line.items() if key not in TIMES} for line in self.lines()]


def trained(make, name, *settings, steps=2):
    run = make(name, steps)
    run.train(*settings)
    return run.lines()


def near(a, b, tolerance=1e-5):
    return abs(a - b) <= tolerance * max(1.0, abs(b))


def groups_of(samples):
    """Samples of each prompt whose scores differ; those of the others must have advantages of 0."""
    for begin in range(0, len(samples), 4):
        group = samples[begin : begin + 4]
        if len({sample["reward"] for sample in group}) > 1:
            yield group
        else:
            expect(all(sample["advantage"] == 0 for sample in group), f"no spread, no advantage: {group}")


def centred(values):
    mean = statistics.mean(values)
    return [value - mean for value in values]


@test
def advantages_are_those_of_scale_rewards(make):
    def samples_of(name, setting):
        run = make(name, 1)
        run.train(REWARDS, setting)
        return run.lines("completions.jsonl")

    batch, rloo, none = (samples_of(word, f"grpo.scale_rewards={word}") for word in ("batch", "rloo", "none"))
    deviation = statistics.stdev(sample["reward"] for sample in batch)
    expect(deviation > 0.1, f"scores differ: {batch}")
    factors = ((batch, 1 / (deviation + EPSILON)), (rloo, 4 / 3), (none, 1.0))
    for samples, factor in factors:
        num_groups = 0
        for group in groups_of(samples):
            num_groups += 1
            for sample, apart in zip(group, centred([sample["reward"] for sample in group])):
                expect(near(sample["advantage"], factor * apart), f"{factor} x {apart}: {sample}")
        expect(num_groups > 1, "several groups have spread")

    samples = samples_of("gdpo", "grpo.multi_objective_aggregation=normalize_then_sum")
    sums = []
    for begin in range(0, len(samples), 4):
        total = [0.0] * 4
        for name, weight in (("vowels", 1.0), ("letters", 0.5)):
            scores = [sample["rewards"][name] for sample in samples[begin : begin + 4]]
            scale = statistics.stdev(scores) + EPSILON
            total = [x + weight * apart / scale for x, apart in zip(total, centred(scores))]
        sums += total
    scale = statistics.stdev(sums) + EPSILON
    for sample, apart in zip(samples, centred(sums)):
        expect(sample["advantage"] == 0 or near(sample["advantage"], apart / scale), f"{apart / scale}: {sample}")
    expect(sum(sample["advantage"] != 0 for sample in samples) > 8, "most have advantages")


@test
def bounds_on_the_ratio_bound_the_loss(make):
    """Of bad completions that became likelier, at the second of two updates; the first has ratios of 1."""
    two = ("grpo.num_iterations=2", "grpo.epsilon=0.001")
    plain = trained(make, "unbounded", *two)
    expect(plain[1]["ratio/max"] > 1.01, f"some ratios have moved: {plain}")
    delta, dual = trained(make, "delta", *two, "grpo.delta=1.002"), trained(make, "dual", *two, "grpo.dual_clip=1.002")
    for line in (delta, dual):
        expect(line[0]["loss"] == plain[0]["loss"], f"the first update is the same: {line[0]}")
        expect(line[1]["loss"] < plain[1]["loss"] - 1e-5, f"ratios above it cost no more: {line[1]} {plain[1]}")
        expect(line[1]["grad_norm"] != plain[1]["grad_norm"], "and they move nothing")
    # Above 1 + epsilon both bounds are the same one.
    expect(near(delta[1]["loss"], dual[1]["loss"], 1e-7), f"delta and dual_clip: {delta[1]} {dual[1]}")


@test
def estimators_of_the_divergence_have_their_values_and_gradients(make):
    plain = trained(make, "without", "grpo.num_iterations=2")
    settings = ("grpo.num_iterations=2", "grpo.beta=0.5")
    names = ("k1", "k2", "k3", "k1+", "k3+")
    found = {name: trained(make, name, *settings, f"grpo.kl_estimator={name}") for name in names}
    value = {name: (lines[0]["loss"] - plain[0]["loss"]) / 0.5 for name, lines in found.items()}
    kl = found["k3"][0]["kl"]
    expect(kl > 1e-3 and near(value["k3"], kl), f"k3 is what is told as kl: {value} {kl}")
    apart = min(abs(value[a] - value[b]) for a, b in (("k1", "k2"), ("k1", "k3"), ("k2", "k3")))
    expect(value["k2"] > 0 and apart > 1e-4, f"the others are others: {value}")
    norm = {name: lines[0]["grad_norm"] for name, lines in found.items()}
    for name in ("k1", "k3"):
        expect(near(value[name + "+"], value[name], 1e-7), f"{name}+ has the value of {name}: {value}")
        expect(near(norm[name + "+"], norm["k2"]), f"{name}+ has the gradient of k2: {norm}")
        expect(not near(norm[name], norm["k2"], 1e-3), f"{name} has another: {norm}")

    corrected = trained(make, "corrected", *settings, "grpo.use_bias_correction_kl=true")
    expect(near(corrected[0]["loss"], found["k3"][0]["loss"]), "at ratios of 1 it is the same divergence")
    expect(not near(corrected[0]["grad_norm"], norm["k3"], 1e-3), "the gradient is also that of the ratio")
    measured = trained(make, "measured", "grpo.num_iterations=2", "grpo.kl_in=off")
    expect(near(measured[0]["kl"], kl), f"kl_in off measures: {measured}")
    expect([line["loss"] for line in measured] == [line["loss"] for line in plain], "and does nothing else")


@test
def bad_completions_that_the_policy_left_behind_leave_the_loss(make):
    free = trained(make, "free", "grpo.num_iterations=2")
    masked = trained(make, "off-policy", "grpo.num_iterations=2", "grpo.off_policy_mask_threshold=0.001")
    dropped = [line["num_off_policy_sequences"] for line in masked]
    expect(dropped[0] == 0 and dropped[1] > 0, f"behind the first update: {dropped}")
    expect(masked[0]["loss"] == free[0]["loss"] and masked[1]["loss"] != free[1]["loss"], "then the loss is another")


@test
def the_cut_into_accumulation_steps_changes_nothing(make):
    whole, cut = make("whole", 3), make("cut", 3)
    whole.train("train.per_device_train_batch_size=16", "train.gradient_accumulation_steps=1")
    cut.train("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=8")
    expect(whole.numbers() == cut.numbers(), "1 x 16 completions and 8 x 2")
    adapters = [(run.run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
    expect(adapters[0] == adapters[1], "the same adapter")


@test
def a_distribution_that_is_cut_is_told_of_and_watched(make):
    shaped = make("shaped", 2)
    settings = ("grpo.top_p=0.8", "grpo.repetition_penalty=1.2", "grpo.min_new_tokens=3")
    error = shaped.train(*settings, "grpo.temperature=0.8")
    keys = "grpo.top_p, repetition_penalty, min_new_tokens"
    expect(f"{keys}: completions are drawn from a distribution that is cut" in error, error)
    for line in shaped.lines():
        expect(0 < line["mismatch/max_difference"] < 1e-4, f"the whole distributions are compared: {line}")
    expect("cut or bent" not in make("plain", 1).train("grpo.temperature=0.8"), "the plain one needs no word")


@test
def dynamic_sampling_without_a_limit_ends(make):
    run = make("dynamic", 2)
    settings = ("grpo.dynamic_sampling=true", "grpo.max_num_gen_batches=0", "grpo.zero_spread_patience=3")
    run.train(*settings, 'rewards=[{name: regex, pattern: "[xyz]"}]')
    expect(all(line["frac_reward_zero_std"] == 0 for line in run.lines()), f"every group has spread: {run.lines()}")
    error = make("hopeless", 2).train(*settings, 'rewards=[{name: regex, pattern: "no such text"}]', code=3)
    expect("step 1: dynamic sampling found no completions of different rewards for 12 prompts in a row" in error, error)


@test
def a_policy_that_runs_away_from_its_samples_stops_the_job(make):
    calm = trained(make, "calm", "grpo.num_iterations=2")
    expect(calm[0]["approx_kl"] < 1e-9 and 0 < calm[1]["approx_kl"] < 10, f"from the weights that sampled: {calm}")
    run, limit = make("away", 6), calm[1]["approx_kl"] / 10
    error = run.train("grpo.num_iterations=2", f"grpo.kl_limit={limit}", "grpo.kl_patience=2", code=3)
    expect("step 4: the divergence from the weights that sampled is" in error, error)
    expect("for 2 steps in a row" in error, error)
    # The first steps of batches, which measure none, are left out.
    expect([line["approx_kl"] > limit for line in run.lines()] == [False, True, False, True], f"{limit}: {run.lines()}")


def main(program, model, names):
    run_tests(names, lambda folder: lambda name, steps: Run(program, model, folder, name, steps))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:])
