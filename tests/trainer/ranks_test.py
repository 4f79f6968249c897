#!/usr/bin/env python3
"""`mpirun -n N tailor train`: trained routers on several layouts, and whatever happens to a rank ends the job soon,
with a reason, and costs nothing that was saved. What every layout has in common is in ranks_alike_test.py.

    ranks_test.py PROGRAM GOLDEN LAUNCHER MPIEXEC... [-- NAME...]

GOLDEN holds tiny_llama and tiny_qwen3_moe, MPIEXEC ends with the option in front of the number of ranks. A slow machine
is allowed TAILOR_TEST_SLOWNESS times the time.
"""

import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

from program import GRPO_JOB, expect, expect_equal, pid_of_rank, run_tests, test, write_data
from ranked_job import DP2, EP2, ONE, SLOWNESS, TP2, Layout, Setting, end_of, expect_alike
from sessions import end_of_session, processes_of

LIMIT_S = 15 * SLOWNESS
MOE, LLAMA = "tiny_qwen3_moe", "tiny_llama"


class GoldenSetting(Setting):
    def __init__(self, program, golden, launcher, mpiexec, folder):
        super().__init__(program, mpiexec, folder)
        self.golden, self.launcher = golden, launcher

    def job(self, name, model=MOE, **more):
        return super().job(name, self.golden / model, **more)


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


@test
def trained_routers_are_alike_and_go_on_at_another_layout(setting):
    router = ["router.train_router=true", "router.router_aux_loss_coef=0.05", "router.router_z_loss_coef=0.001"]
    router = [word for pair in router for word in ("--set", pair)]
    one = setting.job("router_one")
    one.finish(ONE, *router)
    for layout in (EP2, TP2):
        job = setting.job(f"router_{layout.name}")
        job.finish(layout, *router)
        expect_alike(job, one, f"routers, {layout.name}")
    job = setting.job("router_further")  # from the middle of the last
    shutil.copytree(setting.folder / f"router_{TP2.name}", job.run)
    shutil.rmtree(job.run / "adapter")
    shutil.rmtree(job.run / "checkpoints" / "step-000020")
    result, _ = job.finish(EP2, *router)
    expect("step-000010" in result["resumed_from"], result)
    expect_alike(job, one, "routers, tp2, then ep2")
    expect("base_model.model.model.layers.0.mlp.gate.weight" in job.adapter(), job.adapter().keys())


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
    end_of_session(process, timeout=60)
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

    fails(MOE, Layout(3, tp=2), "parallel.tensor_parallel_size: 2 does not divide the 3 ranks of this job")
    fails(MOE, Layout(3, ep=3), "expert_parallel_size 3: expected a divisor of the 8 experts of a layer")
    fails(LLAMA, EP2, "expert_parallel_size 2: llama has no experts")
    fails(MOE, EP2, 'error: --set trian.x=3: trian: unknown key; did you mean "train"?', "--set", "trian.x=3")
    error = fails(MOE, EP2, "error: rank 1: --set: expected what rank 0 was given, ", last=("--set", "peft.lora_alpha=64"))
    expect('"peft.lora_alpha=64"]; every rank' in error, error)
    whole, cut = setting.golden / MOE, setting.folder / "cut"
    shutil.copytree(whole, cut)
    os.truncate(cut / "model.safetensors", 100_000)
    last = ("--set", f"model.name_or_path={cut}")
    error = fails(MOE, EP2, "error: rank 1: ", last=last)
    expect(str(cut / "model.safetensors") in error, error)
    # The same configuration and tensors, other values.
    other = setting.folder / "other"
    command = [setting.program, "init", "--config", whole / "config.json", "--output", other]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    last = ("--set", f"model.name_or_path={other}")
    error = fails(MOE, EP2, "error: rank 1: model: expected ", last=last)
    expect("which rank 0 found" in error and str(other) in error, error)


@contextlib.contextmanager
def held_up(file):
    """A named pipe in the place of `file`; what is yielded waits until a process reads it, which from then on neither
    goes on nor ends."""
    os.mkfifo(file)
    writers = []

    def wait_for_reader(process):
        until = time.monotonic() + 60 * SLOWNESS
        while time.monotonic() < until:
            expect(process.poll() is None, f"the job waits for {file}")
            with contextlib.suppress(OSError):  # nobody reads yet
                writers.append(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
                return
            time.sleep(0.002)
        sys.exit(f"nobody reads {file}")

    yield wait_for_reader
    for writer in writers:
        os.close(writer)


def end_of_hang(process, begin, limit_s, ranks, what):
    """Told by a rank that waits, once its limit is over: the call, its group and number, who waits and for whom."""
    error = end_of_fault(process, begin, 4, f"from rank 1 within {limit_s:g} s", what, limit_s + 5 * SLOWNESS)
    place = rf"error: [a-z_]+ #\d+ of group \w+, rank 0 of {ranks}: no answer from rank 1 within {limit_s:g} s\n"
    expect(re.search(place, error), f"{what}: {place!r} in {error}")
    # The others may have begun to wait a little before.
    expect(time.monotonic() - begin > 0.7 * limit_s, f"{what}: before its time")


STUCK_REWARD = """\
import os
import time

calls = 0
with open(f"/proc/{os.getppid()}/environ", "rb") as file:  # the rank's; its children are not told
    is_second = b"OMPI_COMM_WORLD_RANK=1" in file.read().split(b"\\0")


def stuck(completions, **rest):
    global calls
    calls += 1
    if calls == 3 and is_second:
        open("stuck", "w").close()
        time.sleep(1000)
    return [float(any(c in text for c in "aeiou")) for text in completions]
"""


@test
def a_rank_that_hangs_alive_ends_the_job_when_the_time_is_over(setting):
    limit_s = 3 * SLOWNESS
    environment = os.environ | {"TAILOR_TIMEOUT_S": str(limit_s)}

    job = setting.job("reading")
    pipe = setting.folder / "pipe.jsonl"
    last = ("--set", f"data.train=[{{path: {pipe}, format: tokens}}]")
    with held_up(pipe) as wait_for_reader:
        process = job.start(DP2, last=last, env=environment)
        wait_for_reader(process)
        end_of_hang(process, time.monotonic(), limit_s, 2, "rank 1 hangs while it reads")

    # In the midst of training.
    (setting.folder / "hanging.py").write_text(STUCK_REWARD)
    write_data(setting.folder)
    job = setting.job("scoring", LLAMA)
    model = json.dumps(str(setting.golden / LLAMA))
    job.file.write_text(GRPO_JOB.format(model=model, run="scoring", steps=100, save_steps=0, eval_steps=0))
    process = job.start(DP2, "--set", "rewards=[{python: 'hanging.py:stuck', timeout_s: 1000}]", env=environment)
    stuck, until = setting.folder / "stuck", time.monotonic() + 60 * SLOWNESS
    while not stuck.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    begin = time.monotonic()
    end_of_hang(process, begin, limit_s, 2, "rank 1 hangs while it scores")
    expect(job.logged_steps() >= 2, f"behind {job.logged_steps()} steps")


@test
def a_launcher_that_does_not_end_is_killed_with_its_ranks(setting):
    job = setting.job("endless")
    pipe = setting.folder / "pipe.jsonl"
    with held_up(pipe) as wait_for_reader:
        process = job.start(DP2, last=("--set", f"data.train=[{{path: {pipe}, format: tokens}}]"))
        wait_for_reader(process)
        ranks = [pid_of_rank(process, rank) for rank in (0, 1)]
        expect(len({process.pid, *ranks} & set(processes_of(process))) == 3, "mpirun and its ranks are one session")
        try:
            end_of_session(process, timeout=0.5)
        except SystemExit as told:
            expect("no end within 0.5 s" in str(told), told)
        else:
            sys.exit("a job that hangs has ended")
        expect(processes_of(process) == [], "nothing goes on")
        for pid in ranks:
            state = pathlib.Path(f"/proc/{pid}/stat")
            expect(not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z", f"{pid} goes on")


def main(program, golden, launcher, *mpiexec):
    names = []
    if "--" in mpiexec:
        at = mpiexec.index("--")
        mpiexec, names = mpiexec[:at], mpiexec[at + 1 :]
    golden = pathlib.Path(golden).resolve()
    run_tests(names, lambda folder: GoldenSetting(program, golden, launcher, mpiexec, folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
