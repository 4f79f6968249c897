#!/usr/bin/env python3
"""Writes tests/golden/peft/*/: LoRA adapters saved by HF PEFT over tests/golden/tiny_*, and what PEFT computes with them.

A directory is a PEFT folder (adapter_config.json, adapter_model.safetensors; B is not zero) and golden.safetensors:

  input_ids, labels          (T)     int64: documents one after the other; label -100 is not supervised
  document_offsets           (D + 1) int64: document d is [d] up to [d + 1]
  logits                     (T, V)  float32: every document alone through model and adapter
  loss                       (1)     float32: mean negative log likelihood of the supervised tokens, in nats
  gradient.<key>             float32: gradient of that mean with respect to a factor, by the adapter's keys
  trained.<key>              float32: the factor behind 20 steps of torch.optim.AdamW (lr 1e-3, weight decay 0.01) on that loss
  losses                     (20)    float32: the loss in front of each step

The metadata records the library versions.

    python scripts/golden/make_peft_goldens.py [--golden tests/golden] [NAME...]
"""

import argparse
import json
import pathlib

import peft
import safetensors
import safetensors.torch
import torch
import transformers

NUM_STEPS = 20
DOCUMENT_LENGTHS = [9, 14, 6, 11]

ADAPTERS = {
    # Every field that decides a module's rank and scale.
    "llama": (
        "tiny_llama",
        dict(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            exclude_modules=["k_proj"],
            rank_pattern={r"layers\.1\..*\.up_proj": 2, "q_proj": 3},
            alpha_pattern={"v_proj": 5},
        ),
    ),
    # A regular expression of Python's own (a look-behind) and the other scale.
    "qwen2": (
        "tiny_qwen2",
        dict(r=4, lora_alpha=6, use_rslora=True, target_modules=r"model\.layers\.\d+\..*(?<!gate)_proj"),
    ),
}


def mean_loss(model, documents):
    """Sum over supervised tokens of all documents, divided by their number; also every logit."""
    total, count, logits = 0.0, 0, []
    for ids, labels in documents:
        out = model(input_ids=ids[None]).logits[0]
        logits.append(out)
        total = total + torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count, torch.cat(logits)


def make_documents(vocab_size):
    documents = []
    for index, length in enumerate(DOCUMENT_LENGTHS):
        ids = torch.randint(0, vocab_size, (length,))
        labels = ids.clone()
        labels[: length // 3] = -100  # a prompt
        if index == 1:
            labels[8:10] = -100  # a turn in the middle
        documents.append((ids, labels))
    return documents


def make(golden: pathlib.Path, name: str):
    base, config = ADAPTERS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(golden / base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    model.eval()
    factors = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for key, parameter in factors.items():
            if ".lora_B." in key:
                parameter.normal_(std=0.1)
    directory = golden / "peft" / name
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)  # a model card of PEFT's
    saved = json.loads((directory / "adapter_config.json").read_text())
    if isinstance(saved["target_modules"], list):
        saved["target_modules"].sort()  # written in the order of a set: another one at every run
    (directory / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")

    documents = make_documents(model.config.vocab_size)
    loss, logits = mean_loss(model, documents)
    loss.backward()
    offsets = torch.tensor([0, *DOCUMENT_LENGTHS]).cumsum(0)
    out = {
        "input_ids": torch.cat([ids for ids, _ in documents]),
        "labels": torch.cat([labels for _, labels in documents]),
        "document_offsets": offsets,
        "logits": logits.detach().contiguous(),
        "loss": loss.detach()[None],
    }
    out |= {f"gradient.{key}": parameter.grad.clone() for key, parameter in factors.items()}

    optimizer = torch.optim.AdamW(factors.values(), lr=1e-3, weight_decay=0.01)
    losses = []
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss, _ = mean_loss(model, documents)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    out["losses"] = torch.tensor(losses)
    out |= {f"trained.{key}": parameter.detach().clone() for key, parameter in factors.items()}
    versions = {m.__name__: m.__version__ for m in (peft, transformers, torch, safetensors)}
    safetensors.torch.save_file(out, directory / "golden.safetensors", metadata=versions)
    for file in directory.iterdir():
        file.chmod(0o644)
    print(f"{directory}: {len(factors)} factors, loss {losses[0]:.6f} -> {losses[-1]:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=pathlib.Path, default=pathlib.Path("tests/golden"))
    parser.add_argument("names", nargs="*", default=list(ADAPTERS), metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names:
        make(arguments.golden, name)


if __name__ == "__main__":
    main()
