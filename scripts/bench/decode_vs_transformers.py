#!/usr/bin/env python3
"""Greedy decoding of `tailor generate` against transformers on the same weights, prompts and threads, in one run: new tokens
a second of both (prompt included, loading not) and the ratio of each pair of rounds. transformers computes in float32 or
bfloat16, whichever is the faster on this machine.

    python scripts/bench/decode_vs_transformers.py --program build/cpu/tailor --model MODEL.gguf|DIRECTORY
    python scripts/bench/decode_vs_transformers.py ... --group 8      # rollouts: 8 sampled completions of each prompt

With --group both draw at temperature 1, transformers with num_return_sequences, and a batch is batch / group prompts.

Needs torch, transformers and, for a GGUF file, gguf.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

import torch
import transformers

from common import decode

TEXT = (
    "The lighthouse keeper wrote in his journal every evening, after the lamps were lit and the wind had settled. He wrote "
    "about ships, about the price of oil, about the gulls that nested under the gallery, and about the letters that he "
    "never sent to his brother on the mainland, who had once been a carpenter and a musician, and who now sold clocks."
)


def load(path, dtype):
    options = dict(dtype=dtype)
    if path.is_file():
        options["gguf_file"], path = path.name, path.parent
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options).eval()


def theirs(model, prompts, new_tokens, group=1):
    """New tokens a second."""
    ids = torch.tensor(prompts)
    options = dict(attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False)
    if group > 1:
        options.update(do_sample=True, temperature=1.0, top_k=0, num_return_sequences=group)
    begin = time.perf_counter()
    with torch.no_grad():
        out = model.generate(ids, min_new_tokens=new_tokens, max_new_tokens=new_tokens, **options)
    return (out.shape[1] - ids.shape[1]) * len(out) / (time.perf_counter() - begin)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--group", type=int, default=1, help="completions of a prompt")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()

    where = dict(gguf_file=arguments.model.name) if arguments.model.is_file() else {}
    folder = arguments.model.parent if arguments.model.is_file() else arguments.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
    ids = (tokenizer(TEXT)["input_ids"] * arguments.prompt_tokens)[: arguments.prompt_tokens]
    models = {dtype: load(arguments.model, dtype) for dtype in (torch.float32, torch.bfloat16)}
    speeds = {dtype: theirs(model, [ids], 8) for dtype, model in models.items()}
    best = max(speeds, key=speeds.get)
    print(f"transformers {transformers.__version__}: {best} is its faster dtype here; {arguments.threads} threads")

    results = {}
    for batch_size in arguments.batch_sizes:
        group = min(arguments.group, batch_size)
        if batch_size % group:
            parser.error(f"--group {group} does not divide batch size {batch_size}")
        prompts = [ids[-shift:] + ids[:-shift] for shift in range(1, batch_size // group + 1)]  # as long, other texts
        more = ["--max-new-tokens", arguments.new_tokens]
        if group > 1:
            more += ["--temperature", 1, "--num-return-sequences", group]
        pairs, starts = [], []
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps({"input_ids": row}) + "\n" for row in prompts)
            file.flush()
            for _ in range(arguments.rounds):
                mine, start = decode(arguments, file.name, batch_size, more)
                pairs.append((mine, theirs(models[best], prompts, arguments.new_tokens, group)))
                starts.append(start)
        mine, peer = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        results[f"batch_{batch_size}"] = {"tailor": mine, "transformers": peer, "ratio": ratio, "first_token_s": min(starts)}
        print(
            f"batch {batch_size}: tailor {mine:.1f}, transformers {peer:.1f} new tokens/s, ratio {ratio:.2f} (median of "
            f"{len(pairs)} pairs); first token {min(starts):.2f} s after the start"
        )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
