"""SFT jobs of the tests' on several ranks: layouts, results, and what two of them have in common."""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import time
from typing import NamedTuple

from program import TIMES, expect
from sessions import end_of_session, kill_session, start_session

SLOWNESS = float(os.environ.get("TAILOR_TEST_SLOWNESS", "1"))
ROWS = 8  # a step, over all ranks

# The smallest rate of a step that still learns. Adam divides a gradient by its own size, so that one which is rounding
# alone moves its parameter by a part of the rate, and what two layouts round apart grows with it. Measured over 20
# steps of eight tiny DeepSeek-V3 models: norms of gradients differ by up to 6e-6 at this rate, by 3e-5 at 1e-3 and by
# 3e-4 at 3e-3, where one rank that takes the rows of a step in another order differs from itself by 2e-5. Those of the
# first step, before any update, differ by 5e-7.
LEARNING_RATE = 3.0e-4

JOB = """\
model: {{name_or_path: {model}, dtype: float32}}
peft: {{r: 4, lora_alpha: 8, init_lora_weights: false}}
data:
  train: [{{path: rows.jsonl, format: tokens}}]
  eval: [{{path: rows.jsonl, format: tokens}}]
  max_length: 512
  packing: false
train: {{learning_rate: {rate}, max_steps: {steps}, lr_scheduler_type: constant, threads: 1}}
output: {{dir: {name}, save_steps: {save_steps}, save_total_limit: 2, eval_steps: 10}}
"""


class Layout(NamedTuple):
    ranks: int = 1
    tp: int = 1
    ep: int = 1
    pp: int = 1
    dp_shard: int = 1

    @property
    def data(self):
        """Ranks that see different data."""
        return self.ranks // self.tp // self.pp

    @property
    def name(self):
        sizes = {"pp": self.pp, "dp": self.data // self.ep, "ep": self.ep, "tp": self.tp, "dp_shard": self.dp_shard}
        return "_".join(f"{name}{size}" for name, size in sizes.items() if size > 1) or "one"

    def __str__(self):
        """In the program's words."""
        if self.ranks == 1:
            return "one rank"
        shard = f", dp_shard {self.dp_shard}" if self.dp_shard > 1 else ""
        return f"pp {self.pp} x dp {self.data // self.ep} x ep {self.ep} x tp {self.tp}{shard}"

    def settings(self):
        sizes = {
            "tensor_parallel_size": self.tp,
            "expert_parallel_size": self.ep,
            "pipeline_parallel_size": self.pp,
            "dp_shard_size": self.dp_shard,
        }
        out = {f"parallel.{key}": size for key, size in sizes.items() if size > 1}
        return out | {"train.per_device_train_batch_size": ROWS // self.data}


ONE, DP2, TP2, EP2 = Layout(), Layout(2), Layout(2, tp=2), Layout(2, ep=2)


class Setting:
    """Programs and files that all jobs of a test share."""

    def __init__(self, program, mpiexec, folder, longest_row=20):
        self.program, self.mpiexec, self.folder = pathlib.Path(program).resolve(), list(mpiexec), folder
        rng = random.Random(3)
        with open(folder / "rows.jsonl", "w") as out:
            for _ in range(5 * ROWS):  # of uneven lengths, so that ranks have unequal work
                ids = [rng.randrange(60) for _ in range(rng.randrange(5, longest_row))]
                out.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")

    def job(self, name, model, steps=20, save_steps=10):
        return Job(self, name, model, steps, save_steps)


class Job:
    def __init__(self, setting, name, model, steps, save_steps):
        self.setting, self.run = setting, setting.folder / name
        self.file = setting.folder / f"{name}.yaml"
        text = JOB.format(
            model=json.dumps(str(model)), name=name, steps=steps, save_steps=save_steps, rate=LEARNING_RATE
        )
        self.file.write_text(text)

    def arguments(self, layout, *more):
        pairs = [word for key, value in layout.settings().items() for word in ("--set", f"{key}={value}")]
        return [str(self.file), "--json", *pairs, *more]

    def command(self, layout, *more, last=()):
        """`last`: options of the last rank alone."""
        one = [str(self.setting.program), "train", *self.arguments(layout, *more)]
        if layout.ranks == 1:
            return one
        if not last:
            return [*self.setting.mpiexec, str(layout.ranks), *one]
        return [*self.setting.mpiexec, str(layout.ranks - 1), *one, ":", self.setting.mpiexec[-1], "1", *one, *last]

    def start(self, layout, *more, last=(), command=None, **options):
        return start_session(
            command or self.command(layout, *more, last=last),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def finish(self, layout, *more, code=0, last=()):
        """Runs to the end; answers (result, text on stderr)."""
        return end_of(self.start(layout, *more, last=last), code, f"{self.run.name}, {layout}")

    def logged_steps(self):
        file = self.run / "metrics.jsonl"
        return file.read_bytes().count(b'"loss"') if file.exists() else 0

    def start_and_wait(self, layout, steps, *more, **options):
        """A process that has done so many steps more than the run had before."""
        process = self.start(layout, *more, **options)
        until = time.monotonic() + 120
        checkpoint = self.checkpoints()[-1:] or ["step-000000"]
        steps += int(checkpoint[0][5:])
        while process.poll() is None and time.monotonic() < until:
            if self.logged_steps() >= steps and self.checkpoints()[-1:] >= checkpoint:
                return process
            time.sleep(0.002)
        kill_session(process)
        sys.exit(f"not at step {steps}: {process.communicate()[1]}")

    def checkpoints(self):
        folder = self.run / "checkpoints"
        return sorted(p.name for p in folder.iterdir() if p.name.startswith("step-")) if folder.exists() else []

    def metrics(self):
        lines = (self.run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]

    def adapter(self):
        return read_floats(self.run / "adapter" / "adapter_model.safetensors")

    def result(self):
        """What two equal runs have in common, to the byte."""
        folder = self.run / "adapter"
        return self.metrics(), {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def read_floats(file):
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        out[name] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin : 8 + size + end])
    return out


def end_of(process, code, what):
    out, error = end_of_session(process, timeout=300)
    if process.returncode != code:
        sys.exit(f"{what}: expected code {code}, got {process.returncode}\n{out}\n{error}")
    lines = out.splitlines()
    expect(len(lines) <= 1, f"{what}: more than one rank writes to stdout: {out}")
    return (json.loads(lines[0]) if lines else None), error


def expect_alike(job, other, what):
    """Two runs on different layouts: every number of metrics.jsonl, which has all digits, is the same but for the order
    in which float32 numbers are added up, and so is the adapter."""
    mine, theirs = job.metrics(), other.metrics()
    expect(len(mine) == len(theirs) and any("eval_loss" in row for row in mine), f"{what}: as many lines of metrics")
    worst = {}
    for a, b in zip(mine, theirs):
        expect(a.keys() == b.keys(), f"{what}: the same metrics: {a} and {b}")
        for name in a:
            worst[name] = max(worst.get(name, 0.0), abs(a[name] - b[name]) / max(abs(b[name]), 1e-3))
    apart = {name: f"{difference:.1e}" for name, difference in worst.items() if difference >= 1e-5}
    expect(not apart, f"{what}: relative differences: {apart}")
    factors, others = job.adapter(), other.adapter()
    expect(factors.keys() == others.keys(), f"{what}: the same tensors")
    farthest = max(abs(a - b) for name in factors for a, b in zip(factors[name], others[name]))
    # An entry whose gradient is rounding alone; one whose gradient is wrong is steps away.
    expect(farthest < LEARNING_RATE / 3, f"{what}: the adapters differ by {farthest:.1e}")
    told = [f"{name} {worst[name]:.0e}" for name in ("loss", "grad_norm", "eval_loss")]
    print(f"  {what}: {', '.join(told)}, adapter {farthest:.0e}", flush=True)
