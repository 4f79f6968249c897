#!/usr/bin/env python3
"""`tailor upcycle` as users meet it, and other commands on what it writes.

    upcycle_cli_test.py PROGRAM MODEL
"""

import functools
import json
import pathlib
import sys
import tempfile

from program import expect, run_program

PROGRAM, MODEL = sys.argv[1:]
run = functools.partial(run_program, PROGRAM)


def completion(model):
    arguments = "--prompt a --temperature 0 --max-new-tokens 12 --ignore-eos --dtype float32 --json".split()
    return json.loads(run("generate", "--model", model, *arguments).stdout)["token_ids"]


def check_upcycled(folder):
    sparse = folder / "sparse"
    result = json.loads(run("upcycle", "--model", MODEL, "--output", sparse, "--split", 2, "--json").stdout)
    expect(result["model_type"] == "mixtral", "a llama becomes a mixtral")
    expect((result["num_experts"], result["num_experts_per_tok"]) == (16, 4), "8 experts, 2 a token, split in two")
    expect(result["dtype"] == "float32", "float32 stays")
    inspected = json.loads(run("inspect", sparse / "model.safetensors", "--json").stdout)
    expect(inspected["num_parameters"] == result["num_parameters"], "as many parameters as said")
    expect(completion(sparse) == completion(MODEL), "the dense model's completion")

    job = folder / "job.yaml"
    (folder / "data.jsonl").write_text('{"text": "a b c"}\n')
    balanced = folder / "balanced"
    told = run("upcycle", "--model", MODEL, "--output", balanced, "--balance", folder / "data.jsonl").stderr
    expect("balancing routers on" in told, f"what routers are balanced on is told in {told!r}")
    expect(completion(balanced) == completion(MODEL), "balanced routers choose among equal experts")
    job.write_text("model: {name_or_path: sparse}\ndata: {train: [{path: data.jsonl, format: text}]}\noutput: {dir: run}\n")
    expect("mixtral" in run("plan", job).stdout, "a plan of the sparse model")


def check_refusals(folder):
    def refused(text, *arguments):
        error = run("upcycle", *arguments, code=2).stderr
        expect(text in error and not (folder / "none").exists(), f"{text!r} in {error!r}, nothing written")

    none = ("--output", folder / "none")
    refused("num_experts_per_tok", "--model", MODEL, *none, "--num-experts", 4, "--num-experts-per-tok", 5)
    refused("mixtral", "--model", folder / "sparse", *none)
    refused("--threads", "--model", MODEL, *none, "--threads", 1)
    refused("--threads", "--model", MODEL, *none, "--balance", folder / "data.jsonl", "--threads", -1)
    refused("missing.jsonl", "--model", MODEL, *none, "--balance", folder / "missing.jsonl")
    (folder / "prompts.jsonl").write_text('{"question": "a"}\n')
    refused("no known format", "--model", MODEL, *none, "--balance", folder / "prompts.jsonl")
    refused("new or empty directory", "--model", MODEL, "--output", folder / "sparse")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_upcycled(pathlib.Path(folder))
        check_refusals(pathlib.Path(folder))


main()
