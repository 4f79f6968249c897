#!/usr/bin/env python3
"""How far do the sampler's log-probabilities lie from the trainer's, and do sampled tokens depend on the batch size?

    scripts/check_grpo_identities.py MODEL [--arithmetic float32 bfloat16] [--batch-sizes 1 8 32] [--work DIR]
                                     [--adapter DIR --data FILE.jsonl]

Samples one GRPO batch at every arithmetic (model.compute_dtype) and batch size (grpo.rollout_batch_size), and lets the
trainer compute all of it again (grpo.reuse_forward_mb: 0); with the adapter given, or one whose B is random. Prints,
over the sampled tokens, mean, median, 99 % quantile and maximum of |log p of the trainer - log p of the sampler|, how
far the adapter moves log p in the mean, and how many completions are those of the first batch size, token by token;
of those that are not, how many tokens are. Fails where the mean is above the limit at which a job stops.
"""

import argparse
import array
import json
import pathlib
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORDS = ["apple", "river", "seven", "sold", "gives", "Ann", "and", "the", "boxes", "how", "many", "left", "in", "each"]
LIMITS = {"float32": 1e-3, "bfloat16": 0.2}  # of grpo.mismatch_limit, where the job names none
TYPES = {"F32": "f", "F64": "d", "I64": "q"}


def read_safetensors(path: pathlib.Path) -> tuple[dict, bytearray]:
    """The header without metadata, and the bytes behind it."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, bytearray(data[8 + size :])


def values(header: dict, data: bytearray, name: str) -> array.array:
    begin, end = header[name]["data_offsets"]
    return array.array(TYPES[header[name]["dtype"]], bytes(data[begin:end]))


def randomize_b(path: pathlib.Path, deviation: float) -> None:
    """Gives every lora_B of an adapter normal entries."""
    header, data = read_safetensors(path)
    whole = path.read_bytes()
    generator = random.Random(3)
    for name, tensor in header.items():
        if "lora_B" not in name:
            continue
        begin, end = tensor["data_offsets"]
        data[begin:end] = array.array("f", (generator.gauss(0, deviation) for _ in range((end - begin) // 4))).tobytes()
    path.write_bytes(whole[: len(whole) - len(data)] + data)


def write_prompts(arguments: argparse.Namespace) -> None:
    generator = random.Random(1)
    if arguments.data:
        lines = arguments.data.read_text().splitlines()[: arguments.prompts]
    else:
        lengths = [generator.randrange(8, 48) for _ in range(arguments.prompts)]
        lines = [json.dumps({"prompt": " ".join(generator.choice(WORDS) for _ in range(n))}) for n in lengths]
    (arguments.work / "prompts.jsonl").write_text("".join(line + "\n" for line in lines))


def run_job(arguments: argparse.Namespace, name: str, changes: dict) -> pathlib.Path:
    job = {
        "task": "grpo",
        "model": {"name_or_path": str(arguments.model), "dtype": "bfloat16"},
        "peft": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "data": {"train": [{"path": "prompts.jsonl"}], "shuffle": False},
        # The batch is not used up behind the only step: the checkpoint holds it.
        "grpo": {"num_generations": arguments.generations, "max_completion_length": arguments.length},
        "rewards": [{"name": "regex", "pattern": "[aeiou]"}],
        "train": {
            "learning_rate": 1e-12,
            "max_steps": 1,
            "per_device_train_batch_size": arguments.prompts * arguments.generations,
            "threads": arguments.threads,
        },
        "output": {"dir": name, "save_steps": 0, "report_to": ["jsonl"]},
    }
    job["grpo"] |= {"num_iterations": 2, "reuse_forward_mb": 0, "beta": 1e-3, "mismatch_limit": 0}
    for section, keys in changes.items():
        job[section] |= keys
    path = arguments.work / f"{name}.yaml"
    path.write_text(json.dumps(job, indent=1))
    done = subprocess.run([arguments.tailor, "train", path, "--quiet"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"check_grpo_identities: {name}: {done.stderr}")
    return arguments.work / name


def make_adapter(arguments: argparse.Namespace) -> pathlib.Path:
    if arguments.adapter:
        return arguments.adapter.resolve()
    small = {"grpo": {"max_completion_length": 1}, "train": {"per_device_train_batch_size": arguments.generations}}
    folder = run_job(arguments, "adapter", small) / "adapter"
    randomize_b(folder / "adapter_model.safetensors", arguments.deviation)
    return folder


class Batch:
    """What the checkpoint of a run in the middle of its batch holds."""

    def __init__(self, run: pathlib.Path) -> None:
        header, data = read_safetensors(next((run / "checkpoints").glob("step-*")) / "rollouts.safetensors")
        facts, ids = values(header, data, "facts"), values(header, data, "ids")
        self.completions, begin = [], 0
        for row in range(0, len(facts), header["facts"]["shape"][1]):
            self.completions.append(list(ids[begin : begin + facts[row + 2]]))
            begin += facts[row + 2]
        of = lambda name: values(header, data, f"{name}_logprobs")  # noqa: E731
        self.differences = sorted(abs(a - b) for a, b in zip(of("old"), of("sampler")))
        moved = [abs(a - b) for a, b in zip(of("old"), of("reference"))]
        self.moved = sum(moved) / len(moved)

    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)

    def quantile(self, share: float) -> float:
        return self.differences[min(int(share * len(self.differences)), len(self.differences) - 1)]

    def agreement(self, other: "Batch") -> str:
        equal, shared = 0, []
        for mine, theirs in zip(self.completions, other.completions):
            if mine == theirs:
                equal += 1
            else:
                apart = (i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b)
                shared.append(next(apart, min(len(mine), len(theirs))))
        text = f"{equal} of {len(self.completions)}"
        return text + (f", others after {sum(shared) / len(shared):.0f} tokens" if shared else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--work", type=pathlib.Path, help="a folder that keeps jobs and runs")
    parser.add_argument("--arithmetic", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--deviation", type=float, default=0.01, help="of the entries of a random B")
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, help="rows with prompts")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    temporary = tempfile.TemporaryDirectory(prefix="tailor-identities-")
    arguments.work = (arguments.work or pathlib.Path(temporary.name)).resolve()
    arguments.model, arguments.tailor = arguments.model.resolve(), arguments.tailor.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    write_prompts(arguments)
    adapter = make_adapter(arguments)
    config = json.loads((adapter / "adapter_config.json").read_text())
    peft = {"adapter_path": str(adapter)} | {key: config[key] for key in ("r", "lora_alpha", "target_modules")}
    heads = "".join(f"{head:>10}" for head in ("mean", "p50", "p99", "max"))
    print(f"{'products':10}{'batch':>6}{'tokens':>8}{heads}{'adapter':>9}  same completions")
    failed = False
    for arithmetic in arguments.arithmetic:
        first = None
        for size in arguments.batch_sizes:
            changes = {"model": {"compute_dtype": arithmetic}, "grpo": {"rollout_batch_size": size}}
            changes["peft"] = peft
            batch = Batch(run_job(arguments, f"{arithmetic}-{size}", changes))
            first = first or batch
            failed |= batch.mean() > LIMITS[arithmetic]
            numbers = [batch.mean(), *(batch.quantile(share) for share in (0.5, 0.99, 1.0))]
            line = f"{arithmetic:10}{size:6}{len(batch.differences):8}" + "".join(f"{x:10.1e}" for x in numbers)
            print(f"{line}{batch.moved:9.3f}  {batch.agreement(first)}", flush=True)
    if failed:
        sys.exit("check_grpo_identities: sampler and trainer are further apart than a job allows")


if __name__ == "__main__":
    main()
