#!/usr/bin/env python3
"""`tailor bench moe` as scripts meet it.

    bench_cli_test.py PROGRAM MODEL
"""

import json
import subprocess
import sys

from program import expect

PROGRAM, _ = sys.argv[1:]


def bench(*arguments):
    command = [PROGRAM, "bench", "moe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def main():
    size = "--tokens 64 --hidden-size 32 --moe-intermediate-size 16 --num-experts 4 --num-experts-per-tok 2".split()
    result = json.loads(bench(*size, "--threads", 1, "--r", 1, 4, "--json").stdout)
    expect(result["num_experts"] == 4 and result["tokens"] == 64, f"another block was measured: {result}")
    expect(result["tokens_per_second"] > 0.0, "no speed")
    # Of a token: the router, forward and backward, and two experts' three matrices.
    gflops = 4e-9 * 32 * (4 + 2 * 3 * 16) * result["tokens_per_second"]
    expect(abs(result["gflops"] / gflops - 1.0) < 1e-6, f"expected {gflops} GFLOP/s, got {result['gflops']}")
    share = result["gflops"] / result["gemm_peak_gflops"]
    expect(abs(result["share_of_peak"] / share - 1.0) < 1e-6, f"expected a share of {share}")
    expect([lora["r"] for lora in result["lora"]] == [1, 4], f"expected the ranks 1 and 4: {result['lora']}")

    refused = bench("--num-experts", 0)
    expect(refused.returncode == 2 and "--num-experts" in refused.stderr, f"not refused: {refused.stderr}")


main()
