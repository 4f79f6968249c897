#!/usr/bin/env python3
"""`output.log_on_each_rank`: every rank has a log file, in which its last error stands, also where a rank stands still
when everything is done.

    rank_logs_test.py PROGRAM MODEL MPIEXEC... [-- NAME...]

MPIEXEC ends with the option in front of the number of ranks. A slow machine is allowed TAILOR_TEST_SLOWNESS times the
time.
"""

import os
import pathlib
import re
import shutil
import signal
import sys
import time

from program import Job, expect, run_tests, test
from sessions import end_of_session

LIMIT_S = 15 * float(os.environ.get("TAILOR_TEST_SLOWNESS", "1"))
RANKS = 2
LOGS = ("--set", "output.log_on_each_rank=true")
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (info|warning|error): ")


class RankedJob(Job):
    def __init__(self, setting, name, steps, last=()):
        """`last`: options of the last rank alone."""
        program, model, mpiexec, folder = setting
        super().__init__(program, model, folder, name, steps, save_steps=0, eval_steps=0)
        self.mpiexec, self.last = mpiexec, last

    def command(self, *more):
        one = super().command(*more)
        return [*self.mpiexec, str(RANKS - 1), *one, ":", self.mpiexec[-1], "1", *one, *self.last]

    def log(self, rank):
        file = self.run / "logs" / f"rank-{rank}.log"
        return file.read_text() if file.exists() else ""

    def processes(self, process):
        """The ranks' process ids, as soon as their logs tell them."""
        pids = []
        while len(pids) < RANKS:
            expect(process.poll() is None, "the job has begun")
            time.sleep(0.002)
            pids = [int(pid) for rank in range(RANKS) for pid in re.findall(r"process (\d+) on .*\n", self.log(rank))]
        return pids


def end_of(process, code):
    out, error = end_of_session(process, timeout=240)
    if process.returncode != code:
        sys.exit(f"expected code {code}, got {process.returncode}\n{out}\n{error}")
    return error


@test
def every_rank_has_a_log_file_on_request(setting):
    job = RankedJob(setting, "run", steps=4)
    _, error = job.finish("--set", "train.max_steps=2")
    expect("model: " in error and not (job.run / "logs").exists(), error)
    starts = 0
    for steps in (3, 4):  # the second goes on behind the first
        _, error = job.finish(*LOGS, "--set", f"train.max_steps={steps}")
        expect(error.count("model: ") == 1, error)
        starts += 1
        for rank in range(RANKS):
            log = job.log(rank)
            lines = [line for line in log.splitlines() if LINE.match(line)]
            for text in (f"rank {rank} of {RANKS}, process ", "model: ", "resuming behind step "):
                expect(sum(text in line for line in lines) == starts, f"{starts} x {text!r} in\n{log}")
            expect(any(f"info: step {steps}/{steps} (100%)" in line for line in lines), log)


@test
def the_error_that_ends_a_rank_is_in_its_log(setting):
    job = RankedJob(setting, "diverged", steps=4, last=("--set", "train.max_loss=0.01"))
    error = end_of(job.start(*LOGS), code=3)
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    expect(line.startswith("error: rank 1: step"), error)
    expect(job.log(1).endswith(line.replace("rank 1: ", "") + "\n"), job.log(1))

    cut = setting[-1] / "cut"
    shutil.copytree(setting[1], cut)
    os.truncate(cut / "model.safetensors", 100_000)
    job = RankedJob(setting, "torn", steps=4, last=("--set", f"model.name_or_path={cut}"))
    end_of(job.start(*LOGS), code=2)
    expect(" error: an error of rank 1, which tells it, ends the job\n" in job.log(0), job.log(0))
    expect(f" error: {cut}/model.safetensors: " in job.log(1), job.log(1))


@test
def a_rank_that_stands_still_when_all_is_done_ends_the_job(setting):
    job = RankedJob(setting, "end", steps=100)
    process = job.start(*LOGS, "--set", "output.report_to=[jsonl, html]")
    pids = job.processes(process)
    # Rank 0 opens it when the adapter is written, and waits for a reader; the other has nothing left to do.
    page = job.run / f".report.html.{pids[0]}.tmp"
    os.mkfifo(page)
    while not (job.run / "adapter" / "adapter_config.json").exists():
        expect(process.poll() is None, "the job trains")
        time.sleep(0.002)
    os.kill(pids[1], signal.SIGSTOP)
    begin = time.monotonic()
    reader = os.open(page, os.O_RDONLY | os.O_NONBLOCK)
    error = end_of(process, code=4)
    os.close(reader)
    seconds = time.monotonic() - begin
    print(f"  SIGSTOP of rank 1 at the end: code 4 after {seconds:.1f} s", flush=True)
    expect(seconds < LIMIT_S, f"took {seconds:.1f} s")
    expect("report.html: " in job.log(0), f"rank 0 was behind the adapter\n{job.log(0)}")
    for text in (error, job.log(0)):
        expect("rank 1 of the job has given no sign of life for 10 s" in text, text)


def main(program, model, *mpiexec):
    names = []
    if "--" in mpiexec:
        at = mpiexec.index("--")
        mpiexec, names = mpiexec[:at], mpiexec[at + 1 :]
    run_tests(names, lambda folder: (pathlib.Path(program), pathlib.Path(model).resolve(), list(mpiexec), folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
