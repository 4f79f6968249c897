#!/usr/bin/env python3
"""Ten LoRA training steps of a real model, in Tailor and in HF PEFT: the same losses.

    tailor convert --dtype float32 SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct
    scripts/check_steps.py --model SmolLM2-135M-Instruct [--tailor build/cpu/tailor]

Both start from one adapter that PEFT writes (r = 16 on every linear layer) and read the same conversations as token
ids, in float32. A step is 4 conversations of different lengths, in Tailor 2 batches of 2 that accumulate; the loss is
the mean over all supervised tokens of the step, which PEFT computes a conversation at a time, so that neither padding
nor packing enters. AdamW, weight decay, clipping and a constant rate are the same. Every loss must agree within 1e-4
nats; the steps before must have changed the last loss by far more, or nothing would be compared. Needs torch,
transformers and peft.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

import peft

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
MIN_EFFECT = 1e-2  # of the steps on the last loss, in nats
BATCH, ACCUMULATED = 2, 2  # rows
LEARNING_RATE, MAX_GRAD_NORM = 1e-3, 1.0
WEIGHT_DECAY = 1.0  # so much that ten steps without it would show


def conversations(count: int, work: pathlib.Path) -> list[list[dict]]:
    command = [sys.executable, ROOT / "scripts/data/word_problems.py", "--out", work / "data"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = (work / "data/train.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["messages"] for line in lines]


def token_rows(model: pathlib.Path, count: int, work: pathlib.Path) -> list[dict]:
    """The answers are supervised, the questions are not."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = []
    for messages in conversations(count, work):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        question = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert text.startswith(question)
        ids = tokenizer(question)["input_ids"]
        answer = tokenizer(text[len(question) :])["input_ids"]
        rows.append({"input_ids": ids + answer, "labels": [-100] * len(ids) + answer})
    return rows


def mean_loss(model, rows: list[dict]) -> torch.Tensor:
    total, count = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count


def peft_losses(arguments, steps: list[list[dict]], adapter: pathlib.Path) -> tuple[list[float], float]:
    """The loss before each step, and the last one without any step. Writes the adapter it begins with."""
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    model = peft.get_peft_model(base, config).train()
    model.save_pretrained(adapter)
    with torch.no_grad():
        untrained = mean_loss(model, steps[-1]).item()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for rows in steps:
        loss = mean_loss(model, rows)
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
    return losses, untrained


def tailor_losses(arguments, steps: list[list[dict]], adapter: pathlib.Path, work: pathlib.Path) -> list[float]:
    rows = work / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for step in steps for row in step))
    job = {  # JSON is YAML
        "task": "sft",
        "model": {"name_or_path": str(arguments.model.resolve()), "dtype": "float32"},
        "peft": {"method": "lora", "r": 16, "lora_alpha": 32, "adapter_path": str(adapter)},
        "data": {"train": [{"path": str(rows), "format": "tokens"}], "packing": False, "shuffle": False},
        "train": {
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "weight_decay": WEIGHT_DECAY,
            "max_grad_norm": MAX_GRAD_NORM,
            "max_steps": len(steps),
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": ACCUMULATED,
            "threads": arguments.threads,
        },
        "output": {"dir": str(work / "run"), "save_steps": 0, "logging_steps": 1, "report_to": ["jsonl"]},
    }
    path = work / "job.yaml"
    path.write_text(json.dumps(job))
    done = subprocess.run([arguments.tailor, "train", path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"check_steps: exit code {done.returncode} of tailor train\n{done.stderr}")
    lines = [json.loads(line) for line in (work / "run/metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="HF directory (`tailor convert` makes one)")
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        rows_a_step = BATCH * ACCUMULATED
        rows = token_rows(arguments.model, arguments.steps * rows_a_step, work)
        steps = [rows[begin : begin + rows_a_step] for begin in range(0, len(rows), rows_a_step)]
        theirs, untrained = peft_losses(arguments, steps, work / "adapter")
        ours = tailor_losses(arguments, steps, work / "adapter", work)
    if len(ours) != len(theirs):
        raise SystemExit(f"check_steps: {len(ours)} losses of {len(theirs)} steps")
    differences = [abs(a - b) for a, b in zip(ours, theirs)]
    print(f"{'step':>4} {'tokens':>7} {'Tailor':>10} {'PEFT':>10} {'difference':>11}")
    for index, (a, b, difference) in enumerate(zip(ours, theirs, differences)):
        tokens = sum(len(row["input_ids"]) for row in steps[index])
        print(f"{index + 1:4} {tokens:7} {a:10.6f} {b:10.6f} {difference:11.1e}")
    effect = abs(theirs[-1] - untrained)
    failed = not max(differences) <= TOLERANCE or effect < MIN_EFFECT
    print(f"largest difference {max(differences):.1e} (at most {TOLERANCE:g})")
    print(f"the steps moved the last loss by {effect:.3f} (at least {MIN_EFFECT:g})")
    print("check_steps:", "FAILED" if failed else "all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
