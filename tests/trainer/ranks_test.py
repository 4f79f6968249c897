#!/usr/bin/env python3
"""`mpirun -n N tailor train`: every layout trains alike, runs go on at other layouts, and whatever happens to a rank
ends the job soon, with a reason, and costs nothing that was saved.

    ranks_test.py PROGRAM GOLDEN LAUNCHER MPIEXEC... [-- NAME...]

GOLDEN holds tiny_llama and tiny_qwen3_moe, MPIEXEC ends with the option in front of the number of ranks. A slow machine
is allowed TAILOR_TEST_SLOWNESS times the time.
"""

import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

from program import TIMES, expect, expect_equal, run_tests, test

LIMIT_S = 15 * float(os.environ.get("TAILOR_TEST_SLOWNESS", "1"))
ROWS = 8  # a step, over all ranks

JOB = """\
model: {{name_or_path: {model}, dtype: float32}}
peft: {{r: 4, lora_alpha: 8, init_lora_weights: false}}
data:
  train: [{{path: rows.jsonl, format: tokens}}]
  eval: [{{path: rows.jsonl, format: tokens}}]
  max_length: 32
  packing: false
train: {{learning_rate: 3.0e-3, max_steps: {steps}, lr_scheduler_type: constant, threads: 1}}
output: {{dir: {name}, save_steps: {save_steps}, save_total_limit: 2, eval_steps: 10}}
"""

# Ranks, tensor_parallel_size, expert_parallel_size.
DP2, TP2, EP2, EP2_DP2, TP2_EP2 = (2, 1, 1), (2, 2, 1), (2, 1, 2), (4, 1, 2), (4, 2, 2)
LAYOUTS = {"tiny_llama": [DP2, TP2], "tiny_qwen3_moe": [DP2, TP2, EP2, EP2_DP2, TP2_EP2]}


class Setting:
    """Programs and files that all tests share."""

    def __init__(self, program, golden, launcher, mpiexec):
        self.program, self.golden, self.launcher, self.mpiexec = program, golden, launcher, mpiexec
        self.folder = None

    def job(self, name, model="tiny_qwen3_moe", steps=20, save_steps=10):
        return Job(self, name, self.golden / model, steps, save_steps)

    def write_rows(self):
        rng = random.Random(3)
        with open(self.folder / "rows.jsonl", "w") as out:
            for _ in range(5 * ROWS):  # of uneven lengths, so that ranks have unequal work
                ids = [rng.randrange(60) for _ in range(rng.randrange(5, 20))]
                out.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


class Job:
    def __init__(self, setting, name, model, steps, save_steps):
        self.setting, self.run = setting, setting.folder / name
        self.file = setting.folder / f"{name}.yaml"
        text = JOB.format(model=json.dumps(str(model)), name=name, steps=steps, save_steps=save_steps)
        self.file.write_text(text)

    def arguments(self, layout, *more):
        ranks, tp, ep = layout
        rows = ROWS * tp // ranks
        sizes = {"train.per_device_train_batch_size": rows}
        if tp > 1:
            sizes["parallel.tensor_parallel_size"] = tp
        if ep > 1:
            sizes["parallel.expert_parallel_size"] = ep
        pairs = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
        return [str(self.file), "--json", *pairs, *more]

    def command(self, layout, *more, last=()):
        """`last`: options of the last rank alone."""
        one = [str(self.setting.program), "train", *self.arguments(layout, *more)]
        if layout[0] == 1:
            return one
        if not last:
            return [*self.setting.mpiexec, str(layout[0]), *one]
        return [*self.setting.mpiexec, str(layout[0] - 1), *one, ":", self.setting.mpiexec[-1], "1", *one, *last]

    def start(self, layout, *more, last=(), command=None):
        return subprocess.Popen(
            command or self.command(layout, *more, last=last),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, layout, *more, code=0, last=()):
        """Runs to the end; answers (result, text on stderr)."""
        process = self.start(layout, *more, last=last)
        return end_of(process, code, "run")

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
        process.kill()
        sys.exit(f"not at step {steps}: {process.communicate()[1]}")

    def checkpoints(self):
        folder = self.run / "checkpoints"
        return sorted(p.name for p in folder.iterdir() if p.name.startswith("step-")) if folder.exists() else []

    def curve(self):
        rows = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        steps = [row for row in rows if "loss" in row]
        return {
            "loss": [row["loss"] for row in steps],
            "grad_norm": [row["grad_norm"] for row in steps],
            "eval_loss": [row["eval_loss"] for row in rows if "eval_loss" in row],
        }

    def adapter(self):
        return read_floats(self.run / "adapter" / "adapter_model.safetensors")

    def result(self):
        """What two equal runs have in common, to the byte."""
        lines = (self.run / "metrics.jsonl").read_text().splitlines()
        metrics = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        folder = self.run / "adapter"
        return metrics, {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


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
    out, error = process.communicate(timeout=300)
    if process.returncode != code:
        sys.exit(f"{what}: expected code {code}, got {process.returncode}\n{out}\n{error}")
    lines = out.splitlines()
    expect(len(lines) <= 1, f"{what}: more than one rank writes to stdout: {out}")
    return (json.loads(lines[0]) if lines else None), error


def end_of_fault(process, begin, code, line, what, limit_s=LIMIT_S):
    """One line of error, soon."""
    _, error = end_of(process, code, what)
    seconds = time.monotonic() - begin
    lines = [one for one in error.splitlines() if one.startswith("error:")]
    print(f"  {what}: code {code} after {seconds:.1f} s: {lines[0] if lines else line}", flush=True)
    expect(line in error, f"{what}: {line!r} in {error}")
    expect(len(lines) <= 1, f"{what}: one error, not {lines}")
    expect(seconds < limit_s, f"{what}: took {seconds:.1f} s")
    return error


def expect_close(mine, theirs, what, grad_norm=1e-4):
    for name, bound in (("loss", 1e-5), ("grad_norm", grad_norm), ("eval_loss", 1e-5)):
        expect(len(mine[name]) == len(theirs[name]) > 0, f"{what}: as many values of {name}")
        worst = max(abs(a - b) / abs(b) for a, b in zip(mine[name], theirs[name]))
        expect(worst < bound, f"{what}: {name} differs by {worst:.2e}")


def name_of(layout):
    ranks, tp, ep = layout
    return f"tp{tp}_ep{ep}_dp{ranks // tp // ep}"


def descendants(pid):
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(child)


def pid_of_rank(process, rank):
    for pid in descendants(process.pid):
        try:
            words = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for name in (b"OMPI_COMM_WORLD_RANK", b"PMIX_RANK", b"PMI_RANK"):
            if name + b"=" + str(rank).encode() in words:
                return pid
    sys.exit(f"no process is rank {rank}")


@test
def every_layout_trains_alike_and_runs_go_on_at_another(setting):
    for model, layouts in LAYOUTS.items():
        one = setting.job(f"{model}_one", model)
        one.finish((1, 1, 1))
        expected = one.curve()
        expect(len(expected["loss"]) == 20 and expected["loss"][-1] < expected["loss"][0], expected)
        for layout in layouts:
            job = setting.job(f"{model}_{name_of(layout)}", model)
            result, _ = job.finish(layout)
            expect(result["steps"] == 20, result)
            expect_close(job.curve(), expected, f"{model} {name_of(layout)}")
            print(f"  {model} {name_of(layout)}", flush=True)

    # As if the run on four ranks had ended behind step 10.
    saved = setting.folder / f"tiny_qwen3_moe_{name_of(EP2_DP2)}"
    for layout in (TP2, (1, 1, 1)):
        job = setting.job(f"from_ep2_dp2_{name_of(layout)}")
        shutil.copytree(saved, job.run)
        shutil.rmtree(job.run / "adapter")
        shutil.rmtree(job.run / "checkpoints" / "step-000020")
        result, error = job.finish(layout)
        expect("step-000010" in result["resumed_from"], result)
        expect("warning: resuming with a change: " in error, error)
        now = "one rank" if layout[0] == 1 else "pp 1 x dp 1 x ep 1 x tp 2"
        expect(f"begun with pp 1 x dp 2 x ep 2 x tp 1, now {now}" in error, error)
        expect_close(job.curve(), expected, f"ep2 x dp2, then {name_of(layout)}")
        mine, theirs = job.adapter(), one.adapter()
        expect(mine.keys() == theirs.keys(), "the same tensors")
        worst = max(abs(a - b) for name in mine for a, b in zip(mine[name], theirs[name]))
        expect(worst < 1e-5, f"the final adapter differs by {worst:.2e}")
        print(f"  ep2 x dp2, then {name_of(layout)}", flush=True)
    _, error = job.finish((1, 1, 1), "--set", "train.per_device_train_batch_size=4", code=2)
    expect("begun with 8 rows, now 4 rows" in error, error)


@test
def trained_routers_are_alike_and_go_on_at_another_layout(setting):
    router = ["router.train_router=true", "router.router_aux_loss_coef=0.05", "router.router_z_loss_coef=0.001"]
    router = [word for pair in router for word in ("--set", pair)]
    one = setting.job("router_one")
    one.finish((1, 1, 1), *router)
    for layout in (EP2, TP2):
        job = setting.job(f"router_{name_of(layout)}")
        job.finish(layout, *router)
        expect_close(job.curve(), one.curve(), f"routers, {name_of(layout)}")
    job = setting.job("router_further")  # from the middle of the last
    shutil.copytree(setting.folder / f"router_{name_of(TP2)}", job.run)
    shutil.rmtree(job.run / "adapter")
    shutil.rmtree(job.run / "checkpoints" / "step-000020")
    result, _ = job.finish(EP2, *router)
    expect("step-000010" in result["resumed_from"], result)
    expect_close(job.curve(), one.curve(), "routers, tp2, then ep2")
    mine, theirs = job.adapter(), one.adapter()
    expect("base_model.model.model.layers.0.mlp.gate.weight" in mine and mine.keys() == theirs.keys(), mine.keys())
    worst = max(abs(a - b) for name in mine for a, b in zip(mine[name], theirs[name]))
    expect(worst < 1e-5, f"the final adapter differs by {worst:.2e}")


@test
def faults_in_training_cost_nothing_that_was_saved(setting):
    steps, save_steps = 100, 5
    straight = setting.job("straight", steps=steps, save_steps=save_steps)
    straight.finish(EP2)
    job = setting.job("faulty", steps=steps, save_steps=save_steps)

    process = job.start_and_wait(EP2, 7)
    pid, begin = pid_of_rank(process, 1), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    end_of_fault(process, begin, 137, "exited on signal 9", "SIGKILL of rank 1")

    process = job.start_and_wait(EP2, 7)
    pid, begin = pid_of_rank(process, 1), time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    second = time.monotonic()  # the first job still holds the directory
    end_of_fault(job.start(EP2), second, 2, "error: output.dir: another process is training", "two jobs", 4 * LIMIT_S)
    end_of_fault(process, begin, 4, "rank 1 of the job has given no sign of life for 10 s", "SIGSTOP of rank 1")

    # Files that rank 0 writes cannot grow beyond a limit, as on a full disk.
    process = job.start_and_wait(EP2, 7)
    largest = max(file.stat().st_size for file in (job.run / "checkpoints" / job.checkpoints()[-1]).iterdir())
    begin = time.monotonic()
    resource.prlimit(pid_of_rank(process, 0), resource.RLIMIT_FSIZE, (largest - 1000, largest - 1000))
    error = end_of_fault(process, begin, 2, "cannot be written: File too large; what was saved", "full disk")
    expect("optimizer.safetensors" in error, error)

    begin = time.monotonic()
    process = job.start(EP2, last=("--set", "train.max_loss=0.01"))
    end_of_fault(process, begin, 3, "error: rank 1: step", "exception in rank 1", 4 * LIMIT_S)

    # mpirun passes SIGUSR1 on; the launcher makes it of others.
    launcher = [str(setting.launcher), "2", *job.arguments(EP2)]
    environment = {"TAILOR": str(setting.program), "MPIRUN": " ".join(setting.mpiexec[:-1])}
    os.environ.update(environment)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        by_hand = number == signal.SIGUSR1
        process = job.start_and_wait(EP2, 7, command=None if by_hand else launcher)
        begin = time.monotonic()
        process.send_signal(number)
        result, error = end_of(process, 130, str(number))
        print(f"  {'mpirun' if by_hand else 'launcher'}: {number.name}: 130 after {time.monotonic() - begin:.1f} s")
        expect(time.monotonic() - begin < LIMIT_S and result["interrupted"], result)
        expect(error.count("interrupted behind step") == 1, error)
        expect(job.checkpoints()[-1] == f"step-{result['steps']:06}", f"{result} {job.checkpoints()}")

    process = job.start_and_wait(EP2, 7)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)  # mpirun kills its ranks
    process.communicate(timeout=60)
    expect(process.returncode != 0 and time.monotonic() - begin < LIMIT_S, f"{process.returncode}")

    result, _ = job.finish(EP2)
    expect(result["steps"] == steps and result["resumed_from"], result)
    expect_equal(job.result(), straight.result(), "behind all faults")


@test
def mistakes_are_told_once(setting):
    def fails(model, layout, line, *more, last=()):
        job = setting.job("mistaken", model)
        begin = time.monotonic()
        process = job.start(layout, *more, last=last)
        return end_of_fault(process, begin, 2, line, line, limit_s=4 * LIMIT_S)  # the start included

    moe = "tiny_qwen3_moe"
    fails(moe, (3, 2, 1), "parallel.tensor_parallel_size: 2 does not divide the 3 ranks of this job")
    fails(moe, (3, 1, 3), "expert_parallel_size 3: expected a divisor of the 8 experts of a layer")
    fails("tiny_llama", EP2, "expert_parallel_size 2: llama has no experts")
    fails(moe, EP2, 'error: --set trian.x=3: trian: unknown key; did you mean "train"?', "--set", "trian.x=3")
    whole, cut = setting.golden / moe, setting.folder / "cut"
    shutil.copytree(whole, cut)
    os.truncate(cut / "model.safetensors", 100_000)
    last = ("--set", f"model.name_or_path={cut}")
    error = fails(moe, EP2, "error: rank 1: ", last=last)
    expect(str(cut / "model.safetensors") in error, error)


def main(program, golden, launcher, *mpiexec):
    names = []
    if "--" in mpiexec:
        at = mpiexec.index("--")
        mpiexec, names = mpiexec[:at], mpiexec[at + 1 :]
    setting = Setting(pathlib.Path(program), pathlib.Path(golden).resolve(), launcher, list(mpiexec))

    def in_folder(folder):
        setting.folder = folder
        setting.write_rows()
        return setting

    run_tests(names, in_folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
