"""What the benchmarks share: the programs, the model, the peer's interpreter, the machine's limit."""

import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(command: list, environment: dict[str, str] | None = None) -> tuple[str, int]:
    """Runs a program to its end; its standard output and its peak resident bytes."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, stdout=output, stderr=errors, env=os.environ | (environment or {}))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{pathlib.Path(sys.argv[0]).stem}: exit code {process.returncode} of {shlex.join(words)}\n{errors.read()[-2000:]}")
        return output.read(), usage.ru_maxrss * 1024


def gemm_gflops(arguments: argparse.Namespace) -> dict[str, float]:
    command = [arguments.tailor, "bench", "gemm", "--json", "--threads", arguments.threads]
    output, _ = run(command)
    result = json.loads(output)
    peaks = {dtype: result.get(f"{dtype}_gflops") or 0.0 for dtype in ("float32", "bfloat16")}
    # bfloat16 weights may be multiplied either way: the faster one is the bound.
    return {"float32": peaks["float32"], "bfloat16": max(peaks.values())}


def matmul_parameters(model: pathlib.Path) -> int:
    c = json.loads((model / "config.json").read_text())
    hidden, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    head_dim = c.get("head_dim") or hidden // heads
    layer = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * c["intermediate_size"]
    return c["num_hidden_layers"] * layer + c["vocab_size"] * hidden


def peer_python(work: pathlib.Path) -> pathlib.Path:
    python, ready = work / "venv/bin/python", work / "venv/ready"
    requirements = ROOT / "scripts/bench/requirements.txt"
    if not ready.exists() or ready.read_text() != requirements.read_text():
        print("setting up the peers' virtual environment (about 5 GB)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", work / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        ready.write_text(requirements.read_text())
    return python


def prepare(arguments: argparse.Namespace) -> None:
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not arguments.tailor.exists():
        raise SystemExit(f"{pathlib.Path(sys.argv[0]).stem}: no {arguments.tailor}; run scripts/setup.sh and scripts/build.sh")
    if arguments.model is None:
        arguments.model = ROOT / "downloads/SmolLM2-135M-Instruct"
        if not arguments.model.exists():
            subprocess.run([ROOT / "scripts/fetch_model.sh"], check=True, stdout=sys.stderr)
            gguf = ROOT / "downloads/SmolLM2-135M-Instruct.Q4_1.gguf"
            subprocess.run([arguments.tailor, "convert", gguf, arguments.model], check=True, stdout=sys.stderr)
    arguments.model = arguments.model.resolve()  # a job's relative paths are relative to the job
    arguments.python = arguments.python or peer_python(arguments.work)


TIMING = re.compile(r"loaded in ([\d.]+) s, first token after ([\d.]+) s more, (\d+) new tokens, ([\d.]+) a second")


def decode(arguments: argparse.Namespace, prompts: str, batch_size: int, more: list) -> tuple:
    """`tailor generate` of a file of prompts, batch_size completions that run together: new tokens a second, prompts
    included, and seconds from the program's start to its first token."""
    command = [arguments.program, "generate", "--model", arguments.model, "--prompts", prompts, "--json", "--ignore-eos"]
    command += ["--timing", "--batch-size", batch_size, "--threads", arguments.threads, *more]
    process = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    loaded, first, tokens, rate = (float(x) for x in TIMING.search(process.stderr).groups())
    return tokens / (first + (tokens - batch_size) / rate), loaded + first
