#!/usr/bin/env python3
"""Logits of a real model against transformers, float32 and bfloat16, on the same weights.

    scripts/check_logits.py HF_DIRECTORY [GGUF FILE from which it was converted with --dtype float32]

Runs in a Python with torch and transformers; build/cpu must hold the tests. Tailor's float32 logits must lie within
1e-3 of transformers'; for bfloat16 the distance from transformers' float32 logits is printed beside the distance that
transformers' own bfloat16 has.
"""

import argparse
import os
import pathlib
import subprocess
import tempfile

import safetensors.torch
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (
    "The three men walked to 27 shops before noon, bought 4 loaves each and argued about Schr\u00f6dinger's cat.\n"
    "def area(r):\n    return 3.14159 * r ** 2  # r in metres\n\u4f60\u597d, world! \U0001f642"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="first a HF directory, which transformers loads too")
    parser.add_argument("--test", default=ROOT / "build/cpu/tests/models_families_test", help="the built test program")
    arguments = parser.parse_args()

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.models[0])
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = transformers.AutoModelForCausalLM.from_pretrained(arguments.models[0], dtype=dtype)
        with torch.no_grad():
            logits[dtype] = model(ids).logits[0].float()
    error = logits[torch.bfloat16] - logits[torch.float32]
    print(
        f"transformers, bfloat16 against float32: root mean square {error.square().mean().sqrt():.4f}, "
        f"largest {error.abs().max():.4f}"
    )
    status = 0
    with tempfile.TemporaryDirectory() as directory:
        golden = os.path.join(directory, "given.safetensors")
        safetensors.torch.save_file({"input_ids": ids[0], "logits": logits[torch.float32].contiguous()}, golden)
        for path in arguments.models:
            print(path, flush=True)
            environment = dict(os.environ, TAILOR_GIVEN_MODEL=path, TAILOR_GIVEN_LOGITS=golden)
            status |= subprocess.run([arguments.test, "[.given]"], env=environment, check=False).returncode
    return status


if __name__ == "__main__":
    raise SystemExit(main())
