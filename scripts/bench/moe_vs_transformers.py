#!/usr/bin/env python3
"""Tailor's sparse block against transformers' Qwen3MoeSparseMoeBlock, forward + backward, in turns, in one run.

    scripts/bench/moe_vs_transformers.py                       # makes a virtual environment for the peer, about 5 GB
    scripts/bench/moe_vs_transformers.py --python ~/venv/bin/python

Work: 2048 tokens, hidden size 512, experts of width 256, float32, 2 threads, the weights frozen and the gradient of the
input wanted; 8 experts top 2 and 64 experts top 8. The peer runs with each of its experts_implementation that a CPU has:
eager, a loop over experts, and grouped_mm. The processes take turns (Tailor, eager, grouped_mm, Tailor ...), so that a
machine that slows down slows all. A ratio is the median over the rounds of Tailor's tokens/s over the better peer's of
the same round.

"of peak" is 4 FLOP a token and parameter that it meets, forward and the input's gradient, over the GEMM rate that
Tailor measures in the same process. "LoRA" is the time that rank r on every expert's three matrices adds.
"""

import argparse
import json
import pathlib
import statistics
import sys

from common import ROOT, peer_python, run

SHAPES = [(8, 2), (64, 8)]  # experts, of a token
PEERS = ["eager", "grouped_mm"]


def shape_options(experts: int, top: int, threads: int) -> list:
    options = ["--tokens", 2048, "--hidden-size", 512, "--moe-intermediate-size", 256]
    return options + ["--num-experts", experts, "--num-experts-per-tok", top, "--threads", threads]


def measure(arguments: argparse.Namespace, experts: int, top: int) -> dict:
    options = shape_options(experts, top, arguments.threads)
    environment = {"OMP_NUM_THREADS": str(arguments.threads)}
    rounds = []
    for turn in range(arguments.rounds):
        output, _ = run([arguments.tailor, "bench", "moe", "--json", *options, "--r", 1, 16], environment)
        found = {"tailor": json.loads(output)}
        for peer in PEERS:
            script = ROOT / "scripts/bench/moe_block.py"
            output, _ = run([arguments.python, script, *options, "--implementation", peer], environment)
            found[peer] = json.loads(output)
        speeds = ", ".join(f"{name} {result['tokens_per_second']:.0f}" for name, result in found.items())
        print(f"{experts} experts top {top}, round {turn + 1}: {speeds} tokens/s", file=sys.stderr)
        rounds.append(found)
    return summarize(experts, top, rounds)


def summarize(experts: int, top: int, rounds: list[dict]) -> dict:
    def median(pick) -> float:
        return statistics.median(pick(found) for found in rounds)

    result = {"num_experts": experts, "num_experts_per_tok": top}
    for name in ("tailor", *PEERS):
        result[name] = median(lambda found: found[name]["tokens_per_second"])
    result["ratio"] = median(
        lambda found: found["tailor"]["tokens_per_second"] / max(found[peer]["tokens_per_second"] for peer in PEERS)
    )
    for key in ("gflops", "gemm_peak_gflops", "share_of_peak"):
        result[key] = median(lambda found: found["tailor"][key])
    result["lora_overhead"] = {
        lora["r"]: median(lambda found: found["tailor"]["lora"][i]["overhead"])
        for i, lora in enumerate(rounds[0]["tailor"]["lora"])
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter with torch and transformers")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/bench", help="folder for the result")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.python = arguments.python or peer_python(arguments.work)
    results = [measure(arguments, *shape) for shape in SHAPES]
    print(f"{'tokens/s':18}{'tailor':>9}" + "".join(f"{peer:>12}" for peer in PEERS) + f"{'x better':>10}{'of peak':>9}  LoRA")
    for r in results:
        name = f"{r['num_experts']} experts top {r['num_experts_per_tok']}"
        lora = ", ".join(f"r={rank} {100 * overhead:+.0f} %" for rank, overhead in r["lora_overhead"].items())
        peers = "".join(f"{r[peer]:12.0f}" for peer in PEERS)
        print(f"{name:18}{r['tailor']:9.0f}{peers}{r['ratio']:10.2f}{r['share_of_peak']:9.2f}  {lora}")
    path = arguments.work / "moe_vs_transformers.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
