#!/usr/bin/env python3
"""Tailor against transformers + PEFT: the same LoRA steps on the same model and tokens, in turns, in one run.

    scripts/bench/sft_vs_peft.py                       # makes a virtual environment for the peer, about 5 GB
    scripts/bench/sft_vs_peft.py --python ~/venv/bin/python

Work: SmolLM2-135M-Instruct, r = 16 on every linear layer, AdamW, packed 4 x 512 tokens a step, every token supervised,
2 threads. Both read the same converted checkpoint and the same rows; the losses of the first step, before the adapter
does anything, must agree. The processes take turns (Tailor, PEFT, Tailor, PEFT ...), so that a machine that slows down
slows both. Tokens/s are medians of the steps behind the warm-up; memory is the peak resident size of the process.

"of peak" is 4 P FLOP a token (P: parameters in matrix products, the head included) over the GEMM rate that
`tailor bench gemm` measures in the same run.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import statistics
import sys
import tempfile

from common import ROOT, gemm_gflops, matmul_parameters, prepare, run

BATCH, LENGTH = 4, 512
WARM_UP = 2  # steps: allocators fill, kernels are chosen
# Largest difference of the first loss: rounding alone, for each stored dtype.
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}


@dataclasses.dataclass
class Run:
    tokens_per_second: float
    peak_bytes: int
    first_loss: float


def summarize(step_times_s: list[float], first_loss: float, peak_bytes: int) -> Run:
    return Run(BATCH * LENGTH / statistics.median(step_times_s[WARM_UP:]), peak_bytes, first_loss)


def run_tailor(arguments: argparse.Namespace, data: pathlib.Path, dtype: str) -> Run:
    with tempfile.TemporaryDirectory(dir=arguments.work) as directory:
        job = {  # JSON is YAML
            "task": "sft",
            "model": {"name_or_path": str(arguments.model), "dtype": dtype},
            "peft": {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "data": {
                "train": [{"path": str(data), "format": "tokens"}],
                "max_length": LENGTH,
                "packing": True,
                "shuffle": False,
            },
            "train": {
                "learning_rate": 2e-4,
                "lr_scheduler_type": "constant",
                "max_steps": arguments.steps + WARM_UP,
                "per_device_train_batch_size": BATCH,
                "threads": arguments.threads,
            },
            "output": {"dir": f"{directory}/run", "save_steps": 0, "logging_steps": 1, "report_to": ["jsonl"]},
        }
        path = pathlib.Path(directory, "job.yaml")
        path.write_text(json.dumps(job, indent=1))
        _, peak_bytes = run([arguments.tailor, "train", path, "--json"])
        lines = [json.loads(line) for line in pathlib.Path(directory, "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_time_s" in line]
    return summarize([step["step_time_s"] for step in steps], steps[0]["loss"], peak_bytes)


def run_peft(arguments: argparse.Namespace, data: pathlib.Path, dtype: str) -> Run:
    command = [arguments.python, ROOT / "scripts/bench/peft_sft.py", "--model", arguments.model, "--data", data]
    command += ["--dtype", dtype, "--batch", BATCH, "--threads", arguments.threads]
    output, peak_bytes = run(command, {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"})
    result = json.loads(output)
    return summarize(result["step_times_s"], result["losses"][0], peak_bytes)


def write_rows(path: pathlib.Path, vocab_size: int, steps: int) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(steps * BATCH):
            ids = [rng.randrange(100, vocab_size) for _ in range(LENGTH)]  # behind the special tokens
            file.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def compare(arguments: argparse.Namespace) -> dict:
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    has_bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags
    peft_dtypes = [d for d in arguments.dtypes if d == "float32" or has_bfloat16 or arguments.peft_bfloat16]
    vocab_size = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
    data = arguments.work / "rows.jsonl"
    write_rows(data, vocab_size, arguments.steps + WARM_UP)

    runs: dict[tuple[str, str], list[Run]] = {}
    peaks: list[dict[str, float]] = []
    for turn in range(arguments.rounds):
        peaks.append(gemm_gflops(arguments))
        for dtype in arguments.dtypes:
            for name, measure in (("tailor", run_tailor), ("peft", run_peft)):
                if name == "peft" and dtype not in peft_dtypes:
                    continue
                result = measure(arguments, data, dtype)
                runs.setdefault((name, dtype), []).append(result)
                print(f"round {turn + 1}: {name} {dtype} {result.tokens_per_second:.1f} tokens/s", file=sys.stderr)
    for dtype in peft_dtypes:
        losses = [runs[name, dtype][0].first_loss for name in ("tailor", "peft")]
        if abs(losses[0] - losses[1]) > LOSS_TOLERANCE[dtype]:
            raise SystemExit(f"sft_vs_peft: not the same work: first losses {losses} in {dtype}")
    return report(arguments, runs, peaks, has_bfloat16)


def report(arguments: argparse.Namespace, runs: dict, peaks: list[dict], has_bfloat16: bool) -> dict:
    parameters = matmul_parameters(arguments.model)
    best = max(
        (key for key in runs if key[0] == "peft"),
        key=lambda key: statistics.median(r.tokens_per_second for r in runs[key]),
        default=None,
    )
    result = {"threads": arguments.threads, "bfloat16_hardware": has_bfloat16, "parameters": parameters}
    result["first_loss"] = {" ".join(key): turns[0].first_loss for key, turns in runs.items()}
    result["gemm_gflops"] = {d: statistics.median(p[d] for p in peaks) for d in arguments.dtypes}
    result["runs"] = []
    print(f"{'':18}{'tokens/s':>10}{'peak GB':>9}{'of peak':>9}{'x best PEFT':>13}{'its memory':>12}")
    for key, turns in runs.items():
        speed = statistics.median(r.tokens_per_second for r in turns)
        memory = max(r.peak_bytes for r in turns)
        row = {"program": key[0], "dtype": key[1], "tokens_per_second": speed, "peak_rss_bytes": memory}
        row["rounds"] = [r.tokens_per_second for r in turns]
        row["share_of_gemm_peak"] = 4e-9 * parameters * speed / result["gemm_gflops"][key[1]]
        ratios = ""
        if best is not None:
            pairs = [a.tokens_per_second / b.tokens_per_second for a, b in zip(turns, runs[best])]
            row["speed_ratio"] = statistics.median(pairs)
            row["memory_ratio"] = memory / max(r.peak_bytes for r in runs[best])
            ratios = f"{row['speed_ratio']:13.2f}{row['memory_ratio']:12.2f}"
        result["runs"].append(row)
        share = row["share_of_gemm_peak"]
        print(f"{key[0] + ' ' + key[1]:18}{speed:10.1f}{memory / 1e9:9.2f}{share:9.2f}{ratios}")
    print("GEMM, GFLOP/s: " + ", ".join(f"{d} {v:.0f}" for d, v in result["gemm_gflops"].items()))
    if "bfloat16" in arguments.dtypes and ("peft", "bfloat16") not in runs:
        print("PEFT in bfloat16 left out: no bfloat16 hardware, minutes a step; --peft-bfloat16 insists")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--model", type=pathlib.Path, help="HF directory, by default SmolLM2, fetched and converted")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter with torch, transformers and peft")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/bench", help="folder for rows and results")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a process, behind the warm-up")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peft-bfloat16", action="store_true", help="also where the processor has no bfloat16")
    arguments = parser.parse_args()
    prepare(arguments)
    result = compare(arguments)
    path = arguments.work / "sft_vs_peft.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
