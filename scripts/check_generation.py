#!/usr/bin/env python3
"""Greedy completions of `tailor generate` against transformers on the same weights, in float32: token ids equal, and the
largest difference of their log probabilities. The weights come from a GGUF file and, with --convert, also from the HF
directory that `tailor convert` makes of it.

    python scripts/check_generation.py --program build/cpu/tailor --gguf MODEL.gguf [--convert]

Needs torch, transformers and gguf.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Ann has 12 apples. She buys 7 more and gives 4 to Ben. How many does she have?",
    "The three laws of thermodynamics are:\n1.",
    "Ein Haus am See ist",
    "Q: What is photosynthesis?\nA:",
    "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,\n\nI am writing to",
    "\U0001f600 emoji and naïve café text:",
]


def reference(model, ids, new_tokens):
    """Greedy ids without the end token, and the log probability of each."""
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    new = out.sequences[0, len(ids) :].tolist()
    logprobs = [step[0].float().log_softmax(-1)[i].item() for step, i in zip(out.logits, new)]
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if new and new[-1] in ends:
        new, logprobs = new[:-1], logprobs[:-1]
    return new, logprobs


def ours(program, model, prompts, new_tokens, threads, batch_size):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for ids in prompts:
            file.write(json.dumps({"input_ids": ids}) + "\n")
        file.flush()
        command = [program, "generate", "--model", model, "--prompts", file.name, "--json", "--dtype", "float32"]
        command += ["--max-new-tokens", str(new_tokens), "--batch-size", str(batch_size), "--threads", str(threads)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--gguf", required=True, type=pathlib.Path)
    parser.add_argument("--convert", action="store_true")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()

    folder = tempfile.TemporaryDirectory()
    sources = [("GGUF", str(arguments.gguf))]
    if arguments.convert:
        converted = str(pathlib.Path(folder.name) / "model")
        subprocess.run([arguments.program, "convert", str(arguments.gguf), converted, "--dtype", "float32"], check=True)
        sources.append(("HF directory", converted))
    load = dict(gguf_file=arguments.gguf.name, dtype=torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.gguf.parent, **load)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.gguf.parent, gguf_file=arguments.gguf.name)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    expected = [reference(model, ids, arguments.new_tokens) for ids in prompts]

    failed = 0
    for name, path in sources:
        for batch_size in (1, 8):
            worst = 0.0
            equal = 0
            rows = ours(arguments.program, path, prompts, arguments.new_tokens, arguments.threads, batch_size)
            for text, row, (ids, logprobs) in zip(PROMPTS, rows, expected):
                if row["token_ids"] != ids:
                    pairs = list(zip(row["token_ids"], ids))
                    same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
                    print(f"{name}, batch {batch_size}, {text[:30]!r}: differs at token {same} of {len(ids)}")
                    continue
                equal += 1
                worst = max([worst] + [abs(a - b) for a, b in zip(row["logprobs"], logprobs)])
            failed += len(PROMPTS) - equal
            print(
                f"{name}, batch {batch_size}: {equal} of {len(PROMPTS)} prompts with {arguments.new_tokens} equal greedy "
                f"tokens; log probabilities differ by at most {worst:.2e}"
            )
            failed += worst > 1e-3
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
