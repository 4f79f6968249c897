#!/usr/bin/env python3
"""Tailor against TRL: whole GRPO steps on the same model and prompts, in turns, in one run.

    scripts/bench/grpo_vs_trl.py                       # makes a virtual environment for the peer, about 5 GB
    scripts/bench/grpo_vs_trl.py --python ~/venv/bin/python

Work of a step: 4 prompts of about 64 tokens, 8 completions each of exactly 64 tokens, a reward that costs nothing,
one update of an adapter of r = 16 on every linear layer; SmolLM2-135M-Instruct in float32, 2 threads. The processes
take turns, so that a machine that slows down slows both. Times are those of the steps behind the first.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import statistics
import tempfile

from common import ROOT, gemm_gflops, matmul_parameters, prepare, run

PROMPTS, GENERATIONS, LENGTH = 4, 8, 64
COMPLETIONS = PROMPTS * GENERATIONS
WORDS = ["tree", "house", "river", "green", "table", "paper", "music", "light", "stone", "water"]


# The peer's: no two completions of a group score alike, so that all of them are trained on.
REWARD = """\
def vowels(completions, **columns):
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]
"""


@dataclasses.dataclass
class Steps:
    step_s: float
    generation_s: float
    peak_bytes: int


def write_prompts(path: pathlib.Path, steps: int) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(steps * PROMPTS):
            words = " ".join(rng.choice(WORDS) for _ in range(64))  # each is a token of this model
            file.write(json.dumps({"prompt": words}) + "\n")


def run_tailor(arguments: argparse.Namespace, data: pathlib.Path) -> Steps:
    with tempfile.TemporaryDirectory(dir=arguments.work) as directory:
        job = {  # JSON is YAML
            "task": "grpo",
            "model": {"name_or_path": str(arguments.model), "dtype": arguments.dtype},
            "peft": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "data": {"train": [{"path": str(data)}], "max_length": 128, "shuffle": False},
            "grpo": {"num_generations": GENERATIONS, "max_completion_length": LENGTH, "min_new_tokens": LENGTH},
            "rewards": [{"python": "reward.py:vowels"}],
            "train": {
                "learning_rate": 1e-4,
                "lr_scheduler_type": "constant",
                "max_steps": arguments.steps + 1,
                "per_device_train_batch_size": COMPLETIONS,
                "threads": arguments.threads,
            },
            "output": {"dir": f"{directory}/run", "save_steps": 0, "report_to": ["jsonl"]},
        }
        path = pathlib.Path(directory, "job.yaml")
        path.write_text(json.dumps(job, indent=1))
        path.with_name("reward.py").write_text(REWARD)
        _, peak_bytes = run([arguments.tailor, "train", path, "--json"])
        lines = [json.loads(line) for line in pathlib.Path(directory, "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["completions/min_length"] == LENGTH for line in lines), "every completion has the full length"
    assert all(line["frac_reward_zero_std"] == 0 for line in lines), "every group is trained on"
    return summarize([x["step_time_s"] for x in lines], [x["rollout_time_s"] for x in lines], peak_bytes)


def run_trl(arguments: argparse.Namespace, data: pathlib.Path) -> Steps:
    command = [arguments.python, ROOT / "scripts/bench/trl_grpo.py", "--model", arguments.model, "--data", data]
    command += ["--completions", COMPLETIONS, "--generations", GENERATIONS, "--length", LENGTH]
    command += ["--steps", arguments.steps + 1, "--threads", arguments.threads]
    environment = {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    output, peak_bytes = run(command, environment)
    result = json.loads(output.strip().splitlines()[-1])
    lengths = result["mean_length"]
    assert lengths and all(length == LENGTH for length in lengths), "every completion has the full length"
    return summarize(result["step_times_s"], result["generation_s"], peak_bytes)


def summarize(step_s: list[float], generation_s: list[float], peak_bytes: int) -> Steps:
    return Steps(statistics.median(step_s[1:]), statistics.median(generation_s[1:]), peak_bytes)


def limit_s(arguments: argparse.Namespace, gflops: float) -> float:
    """Of a step that computes every prompt once: 2 P FLOP a token forward, which sampling has done, and 2 P backward."""
    parameters = matmul_parameters(arguments.model)
    tokens = COMPLETIONS * LENGTH + PROMPTS * 64
    return (2 + 2) * parameters * tokens / (gflops * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--model", type=pathlib.Path, help="HF directory, by default SmolLM2, fetched and converted")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter with torch, transformers, peft and trl")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/bench", help="folder for prompts and results")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="stored by Tailor")
    parser.add_argument("--steps", type=int, default=1, help="measured steps of a process, behind the first")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments)
    data = arguments.work / "prompts.jsonl"
    write_prompts(data, arguments.steps + 1)

    pairs, gflops = [], []
    for turn in range(arguments.rounds):
        gflops.append(gemm_gflops(arguments)["float32"])
        pairs.append((run_tailor(arguments, data), run_trl(arguments, data)))
        for name, steps in zip(("tailor", "trl"), pairs[-1]):
            print(
                f"round {turn + 1}: {name:6} step {steps.step_s:6.1f} s, of it sampling {steps.generation_s:6.1f} s; "
                f"peak {steps.peak_bytes / 1e9:.2f} GB"
            )
    ratio = {
        "step": statistics.median(b.step_s / a.step_s for a, b in pairs),
        "sampling": statistics.median(b.generation_s / a.generation_s for a, b in pairs),
        "memory": max(a.peak_bytes for a, _ in pairs) / max(b.peak_bytes for _, b in pairs),
    }
    share = statistics.median(limit_s(arguments, g) / a.step_s for g, (a, _) in zip(gflops, pairs))
    print(f"a step {ratio['step']:.2f} x as fast as TRL's, sampling {ratio['sampling']:.2f} x, {ratio['memory']:.2f} of its memory")
    print(f"share of the limit: {share:.2f} (GEMM peak {statistics.median(gflops):.0f} GFLOP/s)")
    result = {"rounds": [[dataclasses.asdict(s) for s in pair] for pair in pairs], "ratio": ratio, "share_of_limit": share}
    path = arguments.work / "grpo_vs_trl.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
