#!/usr/bin/env python3
"""Two ranks of one thread with the experts spread over them, against one rank of two threads: the same steps, in turns.

    scripts/bench/ranks_vs_threads.py                     # SmolLM2-135M upcycled to 8 experts, top 2
    scripts/bench/ranks_vs_threads.py --model DIR --layout pipeline_parallel_size=2

Work: LoRA (r = 16 on every linear layer, experts included) on word problems, float32, 4 rows a step: on one rank all of
them, on two ranks two each. Both runs see the same rows in the same order, so the losses of every step must agree to
rounding. Each pair of runs is one beside the other in time, and the ratio is the median over pairs; tokens/s of a run is
that of its steps behind the warm-up together, since steps have unequally many tokens.

Ranks wait for the one that has more tokens in attention, and in every sparse layer for the one whose experts were
chosen more often. So routers are balanced on the rows (`upcycle --balance`): as drawn they send 0.65 of the rows to the
busier half of the 8 experts (180 tokens of word problems, mean of SmolLM2's 30 layers, 0.50 to 0.89), and experts would
take 1.3 times as long as they do evenly spread; balanced ones send 0.54 of 687 held-out tokens (0.50 to 0.70).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from common import ROOT, run

ROWS = 4  # of a step, over all ranks
WARM_UP = 1  # steps: allocators fill
LOSS_TOLERANCE = 1e-3


def prepare(arguments: argparse.Namespace) -> None:
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.work = arguments.work.resolve()
    if arguments.data is None:
        arguments.data = arguments.work / "word_problems/train.jsonl"
        if not arguments.data.exists():
            script = ROOT / "scripts/data/word_problems.py"
            run([sys.executable, script, "--out", arguments.data.parent])
    if arguments.model is None:
        arguments.model = arguments.work / "smollm2-8-balanced-experts"
        if not (arguments.model / "config.json").exists():
            subprocess.run([ROOT / "scripts/fetch_model.sh"], check=True, stdout=sys.stderr)
            gguf = ROOT / "downloads/SmolLM2-135M-Instruct.Q4_1.gguf"
            command = [arguments.tailor, "upcycle", "--model", gguf, "--output", arguments.model]
            command += ["--num-experts", 8, "--num-experts-per-tok", 2, "--dtype", "float32"]
            run(command + ["--balance", arguments.data])
    arguments.model, arguments.data = arguments.model.resolve(), arguments.data.resolve()


def train(arguments: argparse.Namespace, ranks: int, threads: int, layout: dict) -> dict:
    with tempfile.TemporaryDirectory(dir=arguments.work) as directory:
        job = {  # JSON is YAML
            "task": "sft",
            "model": {"name_or_path": str(arguments.model), "dtype": "float32"},
            "peft": {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "data": {"train": [{"path": str(arguments.data), "format": "messages"}], "max_length": 512, "packing": False},
            "train": {
                "learning_rate": 2e-4,
                "max_steps": arguments.steps + WARM_UP,
                "per_device_train_batch_size": ROWS // ranks,
                "threads": threads,
            },
            "parallel": layout,
            "output": {"dir": f"{directory}/run", "save_steps": 0, "logging_steps": 1, "report_to": ["jsonl"]},
        }
        path = pathlib.Path(directory, "job.yaml")
        path.write_text(json.dumps(job, indent=1))
        launcher = ["mpirun", *arguments.mpirun, "-n", ranks] if ranks > 1 else []
        run([*launcher, arguments.tailor, "train", path], {"OMP_NUM_THREADS": str(threads)})
        lines = [json.loads(line) for line in pathlib.Path(directory, "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_time_s" in line][WARM_UP:]
    tokens = sum(step["tokens_per_second"] * step["step_time_s"] for step in steps)
    seconds = sum(step["step_time_s"] for step in steps)
    return {"tokens_per_second": tokens / seconds, "losses": [step["loss"] for step in steps]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--model", type=pathlib.Path, help="HF directory; by default SmolLM2, fetched and upcycled")
    parser.add_argument("--data", type=pathlib.Path, help="chat rows; by default word problems")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/bench", help="folder for model and results")
    parser.add_argument("--layout", default="expert_parallel_size=2", help="one setting of `parallel`, of the two ranks")
    parser.add_argument("--steps", type=int, default=6, help="measured steps of a run")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mpirun", nargs="*", default=["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"])
    arguments = parser.parse_args()
    prepare(arguments)
    axis, size = arguments.layout.split("=")
    ratios, speeds = [], {"ranks": [], "threads": []}
    for pair in range(arguments.pairs):
        ranks = train(arguments, 2, 1, {axis: int(size)})
        threads = train(arguments, 1, 2, {})
        difference = max(abs(a - b) for a, b in zip(ranks["losses"], threads["losses"]))
        if difference > LOSS_TOLERANCE:
            raise SystemExit(f"ranks_vs_threads: not the same work: losses differ by {difference}")
        speeds["ranks"].append(ranks["tokens_per_second"])
        speeds["threads"].append(threads["tokens_per_second"])
        ratios.append(speeds["ranks"][-1] / speeds["threads"][-1])
        print(
            f"pair {pair + 1}: 2 ranks {speeds['ranks'][-1]:.1f} tokens/s, "
            f"1 rank x 2 threads {speeds['threads'][-1]:.1f}, ratio {ratios[-1]:.2f}",
            file=sys.stderr,
        )
    result = {"layout": arguments.layout, "ratio": statistics.median(ratios), "ratios": ratios, **speeds}
    print(f"{arguments.layout}: {result['ratio']:.2f} of one rank's speed")
    path = arguments.work / "ranks_vs_threads.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
