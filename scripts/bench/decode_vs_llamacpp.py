#!/usr/bin/env python3
"""Greedy decoding of `tailor generate` against llama.cpp (PyPI: xllamacpp) on the same GGUF file, prompts and threads, in
turns, in one run: new tokens a second of both, prompts included and loading not, and the ratio of each pair of rounds.
llama.cpp computes the prompts of a batch as requests to its server, as many at once as it has slots.

    pip install xllamacpp==2026.10.11549
    python scripts/bench/decode_vs_llamacpp.py --program build/cpu/tailor --model MODEL-f16.gguf
"""

import argparse
import concurrent.futures
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time

import xllamacpp

from common import decode

FIRST_ID, LAST_ID = 100, 4000  # plain words in common vocabularies


def make_server(model, threads, slots, tokens):
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel, params.n_ctx = slots, slots * tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    return xllamacpp.Server(params)


def theirs(server, prompts, new_tokens):
    """New tokens a second."""

    def complete(ids):
        request = {"prompt": ids, "max_tokens": new_tokens, "ignore_eos": True, "temperature": 0.0, "cache_prompt": False}
        return server.handle_completions(request)["usage"]["completion_tokens"]

    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        done = sum(pool.map(complete, prompts))
    seconds = time.perf_counter() - begin
    if done != new_tokens * len(prompts):
        raise SystemExit(f"llama.cpp made {done} tokens, {new_tokens * len(prompts)} were asked for")
    return done / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    rng = random.Random(1)
    results = {}
    for batch_size in arguments.batch_sizes:
        prompts = [[rng.randint(FIRST_ID, LAST_ID) for _ in range(arguments.prompt_tokens)] for _ in range(batch_size)]
        server = make_server(arguments.model, arguments.threads, batch_size, arguments.prompt_tokens + arguments.new_tokens)
        theirs(server, prompts[:1], 4)  # warm
        pairs = []
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps({"input_ids": row}) + "\n" for row in prompts)
            file.flush()
            for _ in range(arguments.rounds):
                mine, _ = decode(arguments, file.name, batch_size, ["--max-new-tokens", arguments.new_tokens])
                pairs.append((mine, theirs(server, prompts, arguments.new_tokens)))
        mine, peer = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        results[f"batch_{batch_size}"] = {"tailor": mine, "llama.cpp": peer, "ratio": ratio}
        print(f"batch {batch_size}: tailor {mine:.1f}, llama.cpp {peer:.1f} new tokens/s, ratio {ratio:.2f} ({len(pairs)} pairs)")
        del server
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
