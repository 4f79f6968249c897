#!/usr/bin/env python3
"""Adapters cross between Tailor and HF PEFT on a real model, both ways: the same log-probabilities and losses.

    scripts/check_adapter.py --model models/SmolLM2-135M-Instruct [--tailor build/cpu/tailor]

1. PEFT writes an adapter with random factors, B not zero; Tailor runs it.
2. Tailor trains an adapter for a few steps; PEFT loads it.
3. What `tailor export` makes of either, and the base with it merged in (`tailor merge`), give the same again.

Of a sparse model (a few MB are enough: tests/golden/tiny_mixtral) PEFT adapts fused experts by target_parameters, and
routers are trained too; PEFT loads Tailor's adapter as `tailor export --experts fused` writes it, and as it is where
experts are the only layers of their projections' names: PEFT leaves shared experts and dense layers of an adapter with
factors by expert out, without a word.

Compared in float32, each with the adapter: the mean loss of token rows (`tailor eval --json`), and the log-probability
of every token of greedy completions (`tailor generate --json`), which PEFT computes from whole logits over Tailor's
token ids; both programs must also choose the same tokens. An adapter must move the loss by far more than the tolerance,
or nothing would be compared. Needs torch, transformers and peft.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import transformers

import peft

TOLERANCE = 1e-4
MIN_EFFECT = 1e-2  # of an adapter on the loss, in nats a token
PROMPTS = [
    "The capital of France is",
    "Ann has 12 apples. She buys 7 more and gives 4 to Ben. Now she has",
    "def fibonacci(n):\n    ",
    "Once upon a time",
]


class Tailor:
    def __init__(self, program: pathlib.Path):
        self.program = program

    def run(self, *words) -> str:
        command = [str(self.program), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"check_adapter: exit code {done.returncode} of {' '.join(command)}\n{done.stderr}")
        return done.stdout

    def loss(self, model, adapter, rows: pathlib.Path) -> float:
        words = ["--adapter", adapter] if adapter else []
        words += ["--data", rows, "--format", "tokens"]
        out = self.run("eval", "--model", model, *words, "--dtype", "float32", "--json")
        return json.loads(out)["loss"]

    def complete(self, model, adapter, prompts: pathlib.Path, new_tokens: int) -> list[dict]:
        words = ["--adapter", adapter] if adapter else []
        out = self.run(
            *["generate", "--model", model, *words, "--prompts", prompts, "--dtype", "float32", "--json"],
            *["--temperature", 0, "--max-new-tokens", new_tokens, "--ignore-eos"],
        )
        return sorted(map(json.loads, out.splitlines()), key=lambda row: row["index"])


@torch.no_grad()
def reference_loss(model, rows: list[dict]) -> float:
    total, count = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum").item()
        count += int((labels[1:] != -100).sum())
    return total / count


@torch.no_grad()
def reference_logprobs(model, prompt_ids: list[int], token_ids: list[int]) -> tuple[torch.Tensor, bool]:
    """Log-probability of each token of the completion, and whether every one is the likeliest."""
    ids = torch.tensor(prompt_ids + token_ids)
    logits = model(input_ids=ids[None]).logits[0, len(prompt_ids) - 1 : -1]
    chosen = torch.tensor(token_ids)
    logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    return logprobs, bool((logits.argmax(-1) == chosen).all())


class Check:
    """What both programs compute with one adapter."""

    def __init__(self, arguments, tailor: Tailor, work: pathlib.Path, rows: list[dict]):
        self.arguments, self.tailor, self.rows, self.failed = arguments, tailor, rows, False
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
        self.rows_file, self.prompts_file = work / "rows.jsonl", work / "prompts.jsonl"
        self.rows_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.prompts_file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
        self.base_loss = tailor.loss(arguments.model, None, self.rows_file)

    def report(self, what: str, value: float, good: bool):
        self.failed |= not good
        print(f"  {what:58} {value:.3g}  {'ok' if good else 'FAILED'}", flush=True)

    def compare(self, title: str, reference, model, adapter):
        """`reference` is PEFT's model; `model` and `adapter` are what Tailor is given."""
        print(title, flush=True)
        ours = self.tailor.loss(model, adapter, self.rows_file)
        theirs = reference_loss(reference, self.rows)
        self.report("loss, |Tailor - PEFT|, nats", abs(ours - theirs), abs(ours - theirs) < TOLERANCE)
        effect = abs(ours - self.base_loss)
        self.report("loss, |adapted - base|, nats", effect, effect > MIN_EFFECT)
        largest, all_greedy = 0.0, True
        completions = self.tailor.complete(model, adapter, self.prompts_file, self.arguments.new_tokens)
        if len(completions) != len(PROMPTS):
            raise SystemExit(f"check_adapter: {len(completions)} completions of {len(PROMPTS)} prompts")
        for prompt, row in zip(PROMPTS, completions):
            prompt_ids = self.tokenizer(prompt)["input_ids"]
            expected, greedy = reference_logprobs(reference, prompt_ids, row["token_ids"])
            difference = (expected - torch.tensor(row["logprobs"])).abs().max().item()
            largest, all_greedy = max(largest, difference), all_greedy and greedy
        self.report("log-probabilities of greedy tokens, largest difference", largest, largest < TOLERANCE)
        self.report("completions are greedy for PEFT too", float(all_greedy), all_greedy)


def make_rows(vocab_size: int, count: int, length: int) -> list[dict]:
    draw = random.Random(7)
    rows = []
    for _ in range(count):
        ids = [draw.randrange(vocab_size) for _ in range(length)]
        rows.append({"input_ids": ids, "labels": [-100] * (length // 4) + ids[length // 4 :]})
    return rows


def linear_names(base, block: str, segments: int) -> list[str]:
    """The last segments of the paths of linear layers in every layer's `block`."""
    linears = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    return sorted({".".join(name.split(".")[-segments:]) for name in linears if f".{block}." in name})


def feed_forward_names(base) -> list[str]:
    """Of dense layers and shared experts: "mlp.up_proj", "shared_experts.up_proj"."""
    return [name for name in linear_names(base, "mlp", segments=2) if name.endswith("_proj")]


def is_sparse(base) -> bool:
    return any(name.endswith(".experts.gate_up_proj") for name, _ in base.named_parameters())


def load_base(arguments):
    return transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)


def peft_adapter(arguments, directory: pathlib.Path):
    """A random adapter on every linear layer, with another rank and scale for some."""
    torch.manual_seed(0)
    base = load_base(arguments)
    targets = dict(target_modules="all-linear")
    if is_sparse(base):  # "all-linear" would mean routers
        parameters = ["experts.gate_up_proj", "experts.down_proj", *(f"{n}.weight" for n in feed_forward_names(base))]
        targets = dict(target_modules=linear_names(base, "self_attn", segments=1), target_parameters=parameters)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        lora_alpha=16,
        **targets,
        rank_pattern={"down_proj": 4},
        alpha_pattern={"q_proj": 4},
    )
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(directory)
    return model


def trained_adapter(arguments, tailor: Tailor, rows: pathlib.Path, work: pathlib.Path, base) -> pathlib.Path:
    attention = linear_names(base, "self_attn", segments=1)
    job = {  # JSON is YAML
        "task": "sft",
        "model": {"name_or_path": str(arguments.model.resolve()), "dtype": "float32"},
        "peft": {"method": "lora", "r": 8, "lora_alpha": 16, "exclude_modules": attention[:1]},
        "data": {"train": [{"path": str(rows), "format": "tokens"}], "max_length": 256},
        "train": {"learning_rate": 1e-2, "max_steps": 5, "per_device_train_batch_size": 2},
        "output": {"dir": str(work / "run"), "save_steps": 0, "report_to": ["jsonl"]},
    }
    if is_sparse(base):
        job["router"] = {"train_router": True}
    path = work / "job.yaml"
    path.write_text(json.dumps(job))
    return pathlib.Path(json.loads(tailor.run("train", path, "--json"))["adapter"])


def load_peft(arguments, adapter: pathlib.Path):
    return peft.PeftModel.from_pretrained(load_base(arguments), adapter).eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="HF directory (`tailor convert` makes one)")
    parser.add_argument("--tailor", type=pathlib.Path, default=pathlib.Path("build/cpu/tailor"))
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tailor = Tailor(arguments.tailor)
    vocab_size = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        check = Check(arguments, tailor, work, make_rows(vocab_size, count=6, length=96))
        theirs = peft_adapter(arguments, work / "theirs")
        check.compare("an adapter of PEFT's, run by Tailor", theirs, arguments.model, work / "theirs")
        words = ["--model", arguments.model, "--adapter", work / "theirs", "--output", work / "merged"]
        tailor.run("merge", *words, "--dtype", "float32")
        check.compare("... merged into the base by Tailor", theirs, work / "merged", None)

        base = load_base(arguments)
        ours = trained_adapter(arguments, tailor, check.rows_file, work, base)
        if is_sparse(base):
            fused = work / "fused"
            tailor.run("export", ours, "--to", "peft", "--experts", "fused", "--output", fused)
            theirs = load_peft(arguments, fused)
            check.compare("an adapter trained by Tailor, fused by it and loaded by PEFT", theirs, arguments.model, ours)
            check.compare("... and by Tailor", theirs, arguments.model, fused)
        if not is_sparse(base) or not feed_forward_names(base):
            theirs = load_peft(arguments, ours)
            check.compare("an adapter trained by Tailor, loaded by PEFT", theirs, arguments.model, ours)
            tailor.run("export", ours, "--to", "peft", "--output", work / "exported")
            check.compare("... exported by Tailor", load_peft(arguments, work / "exported"), arguments.model, ours)
    print("check_adapter:", "FAILED" if check.failed else "all agree")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
