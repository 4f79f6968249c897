#!/usr/bin/env python3
"""Does GRPO learn, and only from the rewards? Several seeds on the word problems, and a control with random rewards.

    scripts/check_grpo.py MODEL ADAPTER --data data/word_problems [--seeds 1 2 3] [--steps 24] [--work runs/check_grpo]

ADAPTER is one of supervised fine-tuning, as scripts/quickstart.sh leaves it: without it the model is right too rarely.
Prints the mean reward of the first and the last quarter of the steps and the share of exact answers on the held-out
problems before and after. Fails unless every seed gains on both and the control gains less than the weakest of them.
A run that is there already is gone on with.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
RANDOM_REWARD = """\
import random

generator = random.Random(0)


def reward(prompts, completions, **columns):
    return [float(generator.random() < 0.5) for _ in completions]
"""


def accuracy(arguments, adapter) -> float:
    command = [arguments.tailor, "eval", "--model", arguments.model, "--adapter", adapter, "--exact-match", "--json"]
    command += ["--data", arguments.data / "test.jsonl", "--max-new-tokens", "64", "--batch-size", "32"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"check_grpo: {done.stderr}")
    return json.loads(done.stdout)["exact_match"]


def train(arguments, name, seed, reward) -> tuple[float, float, float]:
    """Mean reward at the beginning and at the end, accuracy behind it."""
    job = {
        "task": "grpo",
        "model": {"name_or_path": str(arguments.model), "dtype": "bfloat16"},
        "peft": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "adapter_path": str(arguments.adapter)},
        "data": {"train": [{"path": str(arguments.data / "train.jsonl")}], "max_length": 256},
        "grpo": {"num_generations": 8, "max_completion_length": 64, "epsilon_high": 0.28},
        "rewards": [reward],
        "train": {
            "learning_rate": arguments.learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 2,
            "max_steps": arguments.steps,
            "per_device_train_batch_size": 8 * arguments.prompts,
            "seed": seed,
        },
        "output": {"dir": str(arguments.work / name), "save_steps": 5, "save_total_limit": 1},
    }
    path = arguments.work / f"{name}.yaml"
    path.write_text(json.dumps(job, indent=1))
    subprocess.run([arguments.tailor, "train", path, "--quiet"], check=True)
    lines = [json.loads(line) for line in (arguments.work / name / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines]
    quarter = max(len(rewards) // 4, 1)
    after = accuracy(arguments, arguments.work / name / "adapter")
    return statistics.mean(rewards[:quarter]), statistics.mean(rewards[-quarter:]), after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/check_grpo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--prompts", type=int, default=8, help="of a step")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    for name in ("model", "adapter", "data", "work"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / "random_reward.py").write_text(RANDOM_REWARD)

    before = accuracy(arguments, arguments.adapter)
    print(f"{'':10}{'reward, first':>15}{'last steps':>12}{'exact, before':>15}{'after':>8}")
    gains = {}
    runs = [(f"seed-{seed}", seed, {"name": "numeric_answer"}) for seed in arguments.seeds]
    runs.append(("random", arguments.seeds[0], {"python": str(arguments.work / "random_reward.py") + ":reward"}))
    for name, seed, reward in runs:
        first, last, after = train(arguments, name, seed, reward)
        gains[name] = (last - first, after - before)
        print(f"{name:10}{first:15.3f}{last:12.3f}{100 * before:14.1f}%{100 * after:7.1f}%", flush=True)
    control = gains.pop("random")[1]
    weakest = min(gain for _, gain in gains.values())
    if min(gain for gain, _ in gains.values()) <= 0 or weakest <= 0 or control >= weakest:
        sys.exit("check_grpo: a seed did not learn, or the control did")


if __name__ == "__main__":
    main()
