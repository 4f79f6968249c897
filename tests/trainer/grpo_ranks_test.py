#!/usr/bin/env python3
"""GRPO under mpirun: every layout samples the same tokens, gives them the same rewards and trains alike; a run that
stopped in the middle of a batch goes on at another layout; one whose ranks were killed ends with the same bytes.

    grpo_ranks_test.py PROGRAM GOLDEN MPIEXEC...

GOLDEN holds tiny_llama and tiny_qwen3_moe, MPIEXEC ends with the option in front of the number of ranks.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from program import TIMES, expect, expect_equal, pid_of_rank
from sessions import run_session, start_session

COMPLETIONS = 16  # a step, over all ranks

JOB = """\
task: grpo
model: {{name_or_path: {model}, dtype: float32}}
peft: {{r: 4, lora_alpha: 8, init_lora_weights: false}}
data:
  train: [{{path: prompts.jsonl}}]
  eval: [{{path: prompts.jsonl}}]
grpo: {{num_generations: 4, max_completion_length: 10, beta: 0.02, num_iterations: 2}}
rewards: [{{name: regex, pattern: "[aeiou]"}}]
train: {{learning_rate: 1.0e-3, max_steps: 6, lr_scheduler_type: constant, threads: 1}}
output: {{dir: {name}, save_steps: 3, eval_steps: 3}}
"""

# Ranks, and the settings that spread the job over them.
LAYOUTS = {
    "tiny_llama": {"dp2": (2, {}), "tp2": (2, {"tensor_parallel_size": 2}), "dp_shard2": (2, {"dp_shard_size": 2})},
    "tiny_qwen3_moe": {"dp2": (2, {}), "ep2": (2, {"expert_parallel_size": 2})},
}


def write_prompts(folder):
    rng = random.Random(5)
    with open(folder / "prompts.jsonl", "w") as out:
        for _ in range(9):  # an odd number: ranks evaluate unequal shares
            words = " ".join(rng.choice(["one", "two", "three", "four"]) for _ in range(rng.randrange(1, 9)))
            out.write(json.dumps({"prompt": words}) + "\n")


def command_of(program, mpiexec, folder, model, name, ranks, sizes, max_steps, *more):
    job = folder / f"{name}.yaml"
    job.write_text(JOB.format(model=json.dumps(str(model)), name=name))
    data_ranks = ranks // sizes.get("tensor_parallel_size", 1)
    settings = {f"parallel.{key}": value for key, value in sizes.items()} | {"train.max_steps": max_steps}
    settings["train.per_device_train_batch_size"] = COMPLETIONS // data_ranks
    command = [*mpiexec, str(ranks)] if ranks > 1 else []
    command += [str(program), "train", str(job)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return command + [word for setting in more for word in ("--set", setting)]


def run(program, mpiexec, folder, model, name, ranks, sizes, max_steps=6, *more):
    command = command_of(program, mpiexec, folder, model, name, ranks, sizes, max_steps, *more)
    done = run_session(command, timeout=240)
    if done.returncode != 0:
        sys.exit(f"{name}: code {done.returncode}\n{done.stderr}")
    read = lambda file: [json.loads(line) for line in (folder / name / file).read_text().splitlines()]  # noqa: E731
    return read("completions.jsonl"), read("metrics.jsonl")


def close(a, b, smallest=1e-3):
    return abs(a - b) <= 1e-4 * max(abs(a), smallest)


def compare(name, found, expected):
    samples, metrics = found
    order = lambda sample: (sample["step"], sample["group"])  # noqa: E731
    mine, theirs = sorted(samples, key=order), sorted(expected[0], key=order)
    expect(len(mine) == len(theirs), f"{name}: {len(theirs)} samples, found {len(mine)}")
    for a, b in zip(mine, theirs):
        same = all(a[key] == b[key] for key in ("prompt", "completion", "reward", "num_tokens", "finish_reason"))
        expect(same and close(a["advantage"], b["advantage"]), f"{name}: the same sample as on one rank:\n{a}\n{b}")
    expect(len(metrics) == len(expected[1]), f"{name}: as many lines of metrics")
    for a, b in zip(metrics, expected[1]):
        for key in ("loss", "grad_norm", "kl", "entropy", "reward", "clip_ratio/region_mean", "eval_reward"):
            # Before a batch's first update the loss is the rounding of log-probabilities, times advantages of 1.
            smallest = 1e-2 if key == "loss" else 1e-3
            expect(key not in b or close(b[key], a.get(key, 1e9), smallest), f"{name}: {key}: {b} and {a}")
    worst = max(line["mismatch/max_difference"] for line in metrics if line.get("clip_ratio/region_mean") == 0.0)
    expect(worst < 1e-4, f"{name}: sampler and trainer apart by {worst}")
    print(f"{name}: {len(mine)} samples alike, log-probabilities of sampler and trainer within {worst:.1e}")


def rewards_start_once(program, mpiexec, folder, model):
    """Ranks that hold the same samples ask one set of children."""
    (folder / "counted.py").write_text(
        "import os\n\nopen('children', 'a').write(f'{os.getpid()}\\n')\n\n\n"
        "def reward(completions, **rest):\n    return [float(len(text) % 3) for text in completions]\n"
    )
    rewards = "[{python: counted.py}]"
    samples, _ = run(program, mpiexec, folder, model, "counted", 2, {"tensor_parallel_size": 2}, 2, f"rewards={rewards}")
    expect(len({sample["reward"] for sample in samples}) > 1, "the function scores")
    children = (folder / "children").read_text().split()
    expect(len(children) == 1, f"one child for two ranks: {children}")


def groups_without_gradient(program, mpiexec, folder, model):
    """They have a forward alone, and ranks have different ones."""
    settings = ("grpo.beta=0", 'rewards=[{name: regex, pattern: "[xyz]"}]')
    one = run(program, mpiexec, folder, model, "silent", 1, {}, 4, *settings)
    shares = [line["frac_reward_zero_std"] for line in one[1] if "frac_reward_zero_std" in line]
    expect(any(0 < share < 1 for share in shares), f"some groups have equal rewards: {shares}")
    for layout, (ranks, sizes) in LAYOUTS[model.name].items():
        label = f"silent-{layout}"
        compare(label, run(program, mpiexec, folder, model, label, ranks, sizes, 4, *settings), one)


def goes_on_from_step_3(folder, name):
    shutil.rmtree(folder / name / "checkpoints" / "step-000006")
    shutil.rmtree(folder / name / "adapter")


def batches_sampled_ahead(program, mpiexec, folder, model):
    """They are the same on every layout, and travel to another one."""
    ahead = "grpo.max_staleness=2"
    one = run(program, mpiexec, folder, model, "ahead", 1, {}, 6, ahead)
    for layout, (ranks, sizes) in LAYOUTS[model.name].items():
        compare(f"ahead-{layout}", run(program, mpiexec, folder, model, f"ahead-{layout}", ranks, sizes, 6, ahead), one)
    # At step 3 one update of its batch is left, and the next batch is sampled.
    for begun, ended, ranks in (("ahead-dp2", "2-to-1", 1), ("ahead", "1-to-2", 2)):
        goes_on_from_step_3(folder, begun)
        compare(f"ahead-{ended}", run(program, mpiexec, folder, model, begun, ranks, {}, 6, ahead), one)


def settings_are_alike_on_two_ranks(program, mpiexec, folder, model):
    """Ratios of sequences, weights of a correction (a cap below 1 makes them felt), groups sampled anew."""
    rare = 'rewards=[{name: regex, pattern: "[xyz]"}]'
    for name, *settings in (
        ("sequence", "grpo.importance_sampling_level=sequence", "grpo.loss_type=grpo"),
        ("correction", "grpo.importance_sampling_correction=token_truncate", "grpo.importance_sampling_clip_max=0.8"),
        ("dynamic", "grpo.dynamic_sampling=true", "grpo.max_num_gen_batches=0", rare),
    ):
        one = run(program, mpiexec, folder, model, name, 1, {}, 4, *settings)
        compare(f"{name}-dp2", run(program, mpiexec, folder, model, f"{name}-dp2", 2, {}, 4, *settings), one)
        if name == "dynamic":
            expect(any(line.get("num_discarded_groups", 0) > 0 for line in one[1]), "some groups were sampled anew")


def bnpo_divides_by_each_ranks_tokens(program, mpiexec, folder, model):
    """At a batch's first update ratios are 1: the loss is the mean over ranks of each one's -advantage a token."""
    settings = ("grpo.loss_type=bnpo", "grpo.beta=0", 'grpo.stop=["e", "a"]')
    settings += ('rewards=[{name: regex, pattern: "[iou]"}]',)
    losses = []
    for ranks in (1, 2):
        samples, metrics = run(program, mpiexec, folder, model, f"bnpo-{ranks}", ranks, {}, 4, *settings)
        for line in metrics:
            batch = [sample for sample in samples if sample["step"] == line["step"]]
            if "loss" not in line or not batch:
                continue
            groups, means = COMPLETIONS // 4, []
            for rank in range(ranks):
                own = [sample for sample in batch if sample["group"] * ranks // groups == rank]
                tokens = sum(sample["num_tokens"] for sample in own)
                means.append(-sum(sample["advantage"] * sample["num_tokens"] for sample in own) / tokens)
            expect(close(statistics.mean(means), line["loss"], 0.1), f"bnpo on {ranks} ranks: {means} and {line}")
            losses.append(line["loss"])
    expect(abs(losses[0] - losses[2]) > 1e-3, f"ranks have unequal tokens: {losses}")
    whole = ("grpo.loss_type=bnpo", "grpo.min_new_tokens=10")  # completions of one length
    one = run(program, mpiexec, folder, model, "bnpo-whole", 1, {}, 4, *whole)
    compare("bnpo-dp2", run(program, mpiexec, folder, model, "bnpo-whole-2", 2, {}, 4, *whole), one)


def killed_ranks_cost_nothing(program, mpiexec, folder, model):
    steps, more = 24, ("output.save_steps=3", "output.eval_steps=5")

    def result(name):
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        metrics = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        files = [folder / name / "completions.jsonl", *sorted((folder / name / "adapter").iterdir())]
        return metrics, {file.name: file.read_bytes() for file in files}

    run(program, mpiexec, folder, model, "unkilled", 2, {}, steps, *more)
    log = folder / "killed" / "metrics.jsonl"
    for rank, behind in ((1, 5), (0, 12), (1, 19)):  # in a batch's middle, and steps behind what was saved
        command = command_of(program, mpiexec, folder, model, "killed", 2, {}, steps, *more)
        process = start_session(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if log.exists() and log.read_bytes().count(b'"loss"') >= behind:
                break
            time.sleep(0.002)
        expect(process.poll() is None, f"the run goes on behind step {behind}")
        os.kill(pid_of_rank(process, rank), signal.SIGKILL)
        expect(process.wait(timeout=60) != 0, "a rank that was killed ends the job")
    run(program, mpiexec, folder, model, "killed", 2, {}, steps, *more)
    expect_equal(result("killed"), result("unkilled"), "ranks killed and the run resumed")


def main(program, golden, mpiexec):
    with tempfile.TemporaryDirectory(prefix="tailor-grpo-ranks-") as name:
        folder = pathlib.Path(name)
        write_prompts(folder)
        for model, layouts in LAYOUTS.items():
            one = run(program, mpiexec, folder, golden / model, f"{model}-1", 1, {})
            spread = {sample["reward"] for sample in one[0]}
            expect(len(spread) > 1, f"{model}: rewards differ, so that something is learnt: {spread}")
            for layout, (ranks, sizes) in layouts.items():
                label = f"{model}-{layout}"
                compare(label, run(program, mpiexec, folder, golden / model, label, ranks, sizes), one)
        # Step 3 is the first of the two of its batch: what is left of it must travel.
        model = golden / "tiny_llama"
        rewards_start_once(program, mpiexec, folder, model)
        groups_without_gradient(program, mpiexec, folder, model)
        batches_sampled_ahead(program, mpiexec, folder, model)
        settings_are_alike_on_two_ranks(program, mpiexec, folder, model)
        bnpo_divides_by_each_ranks_tokens(program, mpiexec, folder, model)
        killed_ranks_cost_nothing(program, mpiexec, folder, model)
        one = run(program, mpiexec, folder, model, "straight", 1, {}, max_steps=6)
        for label, begun, ended in (("2-to-1", 2, 1), ("1-to-2", 1, 2)):
            run(program, mpiexec, folder, model, label, begun, {}, max_steps=3)
            compare(label, run(program, mpiexec, folder, model, label, ended, {}, max_steps=6), one)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:])
