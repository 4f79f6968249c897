#!/usr/bin/env python3
"""Checks `tailor convert`: transformers must make of the written directory what it makes of the GGUF file itself.

transformers reads GGUF with code of its own (and the package `gguf`), so it is the witness: equal float32 logits, equal
token ids on natural text, code, scripts, emoji and special tokens, and the same rendered conversation. As a witness it
has weaknesses (transformers 5.24): it ignores `tokenizer.ggml.pre`, so that SmolLM2's blanks before digits, which TEXTS
avoid, and Qwen's NFC differ, and Llama 3's rope_freqs. Where the HF directory that the GGUF file was made from is at
hand, --reference takes that as the witness instead.

    python scripts/check_convert.py build/cpu/tailor MODEL.gguf [--reference DIRECTORY]
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

TEXTS = [
    "The capital of France is",
    "Ann has 12 apples, she'll buy 345 more: how many?",
    "def f(x):\n\treturn x**2  # squared\n\n\n",
    "caf\u00e9 na\u00efve e\u0301 \u4f60\u597d\uff0c\u4e16\u754c \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "<|im_start|>user\nHello  there<|im_end|>\n<|im_start|>assistant\n",
    "   spaces\u00a0and\ttabs \r\nand 1234567890 ...!?",
    "",
]
MESSAGES = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And\n3 + 3?"},
]


def load(path, **arguments):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **arguments).eval()
    return model, transformers.AutoTokenizer.from_pretrained(path, **arguments)


def compare(expected_model, expected_tokenizer, model, tokenizer):
    """Yields (what, whether it holds, detail)."""
    expected_weights = dict(expected_model.named_parameters())
    weights = dict(model.named_parameters())
    yield "parameter names", weights.keys() == expected_weights.keys(), f"{len(weights)} parameters"
    worst = max((weights[name] - expected_weights[name]).abs().max().item() for name in expected_weights)
    yield "weights", worst == 0, f"largest difference {worst:.3g}"
    for text in TEXTS:
        ids, expected = tokenizer(text)["input_ids"], expected_tokenizer(text)["input_ids"]
        detail = f"{len(ids)} tokens" if ids == expected else f"{ids} not {expected}"
        yield f"ids of {text!r:.40}", ids == expected, detail
        yield "  decoded again", tokenizer.decode(ids) == expected_tokenizer.decode(ids), ""
        if not ids:
            continue
        with torch.no_grad():
            batch = torch.tensor([ids])
            difference = (model(batch).logits - expected_model(batch).logits).abs().max().item()
        yield "  logits", difference <= 1e-5, f"largest difference {difference:.3g}"
    for prompt in (False, True):
        how = dict(tokenize=False, add_generation_prompt=prompt)
        text, expected = (t.apply_chat_template(MESSAGES, **how) for t in (tokenizer, expected_tokenizer))
        yield f"conversation, add_generation_prompt={prompt}", text == expected, f"{len(text)} characters"
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = [getattr(t, name) for t in (tokenizer, expected_tokenizer)]
        yield name, ids[0] == ids[1], f"{ids[0]} and {ids[1]}"
    eos = model.generation_config.eos_token_id
    yield "generation_config", eos == tokenizer.eos_token_id, f"eos_token_id {eos}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tailor", type=pathlib.Path)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--reference", type=pathlib.Path)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "converted"
        subprocess.run([arguments.tailor, "convert", arguments.gguf, directory, "--dtype", "float32"], check=True)
        gguf = arguments.gguf
        reference = load(arguments.reference) if arguments.reference else load(gguf.parent, gguf_file=gguf.name)
        for what, holds, detail in compare(*reference, *load(directory)):
            failures += not holds
            print("ok  " if holds else "FAIL", what, f"({detail})" if detail else "")
    print(f"{failures} differences" if failures else "the directory is the GGUF file's model")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
