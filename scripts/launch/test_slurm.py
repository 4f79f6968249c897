"""What test_slurm.sh runs: jobs of a tiny mixture of experts on two ranks, submitted with train.sbatch."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/trainer"))

from one_node_slurm import OneNodeSlurm, wait_until
from program import Job, expect, expect_equal

RANKS = 2
SCRIPT = ROOT / "scripts/launch/train.sbatch"
OVERRIDES = ("--set", f"parallel.expert_parallel_size={RANKS}", "--set", "peft.lora_dropout=0")
STEPS, NEVER = 120, 1000000  # nothing but an interruption saves before the end


class Launched(Job):
    """A job of the tests', run by Slurm."""

    def __init__(self, slurm, tailor, folder, name, steps):
        super().__init__(tailor, ROOT / "tests/golden/tiny_qwen3_moe", folder, name, steps, NEVER, NEVER)
        self.slurm = slurm
        self.name = name
        self.log = folder / f"{name}.log"
        self.number = None

    def submit(self, *options):
        self.number = self.slurm.submit(
            f"--job-name={self.name}",
            f"--ntasks={RANKS}",
            "--time=10",
            f"--output={self.log}",
            f"--export=ALL,TAILOR={self.program},OMP_WAIT_POLICY=passive",
            *options,
            SCRIPT,
            self.file,
            *OVERRIDES,
        )

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else "no log"

    def expect(self, condition, what):
        expect(condition, f"{self.name}: {what}\n{self.slurm.job(self.number)}\n{self.text()}")

    def end(self, state, restarts=0, limit_s=300):
        said = self.slurm.wait_for_end(self.number, limit_s)
        self.expect(said["JobState"] == state and int(said["Restarts"]) == restarts, f"{state}, {restarts} restarts")

    def wait_until_step(self, step):
        def reached():
            self.expect(self.slurm.is_alive(self.number), f"runs until step {step}")
            return self.logged_steps() >= step

        wait_until(reached, f"{self.name} has done step {step}", 120)

    def interrupted_step(self):
        """The step at which it was interrupted and saved."""
        wait_until(lambda: "interrupted behind step" in self.text(), f"{self.name} is interrupted", 30)
        step = int(self.text().split("interrupted behind step ")[1].split()[0])
        self.expect(f"interrupted behind step {step} of {self.total()}, which is saved" in self.text(), "saved")
        return step

    def total(self):
        return self.text().split("the run: ")[1].split()[0].replace(",", "")

    def processes(self):
        """Its ranks; the script and srun only name the program among their arguments."""
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if arguments[0] == os.fsencode(self.program) and os.fsencode(self.file) in arguments:
                yield int(process.name)


def good_end(make):
    job = make("undisturbed", STEPS)
    job.submit()
    job.end("COMPLETED")
    job.expect(f"ep {RANKS}" in job.text() and f"{RANKS} ranks x 1 threads" in job.text(), "the experts are shared")
    losses = [line["loss"] for line in job.result()[0] if "loss" in line]
    job.expect(len(losses) == STEPS and losses[-1] < 0.7 * losses[0], f"learns: {losses}")
    command = [job.program, "inspect", job.run / "adapter"]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60, check=True)
    print(f"sbatch: {STEPS} steps on {RANKS} ranks, loss {losses[0]:.3f} to {losses[-1]:.3f}, adapter readable")
    return job


def requeue(make, undisturbed):
    job = make("requeued", STEPS)
    job.submit()
    job.wait_until_step(STEPS // 12)
    job.slurm.run("scancel", "--signal=TERM", job.number)
    step = job.interrupted_step()
    job.expect(0 < step < STEPS, "interrupted in the midst")
    job.end("COMPLETED", restarts=1)
    job.expect(f"resuming behind step {step} of" in job.text(), "the next start resumes")
    expect_equal(job.result(), undisturbed.result(), "requeued and undisturbed")
    print(f"scancel --signal=TERM: saved at step {step}, requeued, resumed; metrics without times, adapter and")
    print("  checkpoint are those of the undisturbed run, to the byte")


def cancel(make):
    job = make("cancelled", NEVER)
    job.submit()
    job.wait_until_step(1)
    job.slurm.run("scancel", job.number)
    job.end("CANCELLED")
    print(f"scancel: saved at step {job.interrupted_step()}, not requeued")


def dead_rank(make):
    job = make("dead", NEVER)
    job.submit()
    job.wait_until_step(1)
    ranks = list(job.processes())
    job.expect(len(ranks) == RANKS, f"processes {ranks}")
    begin = time.monotonic()
    os.kill(ranks[-1], signal.SIGKILL)
    job.end("FAILED", limit_s=60)
    elapsed_s = time.monotonic() - begin
    job.expect(elapsed_s < 15, f"ends soon, not after {elapsed_s:.1f} s")
    print(f"SIGKILL of a rank: the job has failed {elapsed_s:.1f} s later")


def refusals(make):
    job = make("refused", STEPS)
    srun = ["srun", "--mpi=none", f"--ntasks={RANKS}", "--time=5", job.program, "train", job.file, *OVERRIDES]
    done = subprocess.run(srun, env=job.slurm.environment, capture_output=True, text=True, timeout=120, check=False)
    refused = done.returncode == 2 and "srun --mpi=pmix" in done.stderr and not job.run.exists()
    expect(refused, f"refused with code 2: {done.returncode}\n{done.stderr}")
    print("srun without PMIx: refused, nothing begun")


def time_limit(make):
    job = make("limited", NEVER)
    job.submit("--time=3")  # the script's --signal comes one to two minutes from now
    job.wait_until_step(1)
    wait_until(lambda: "interrupted behind step" in job.text(), "its time is almost up", 180)
    step = job.interrupted_step()
    wait_until(lambda: f"resuming behind step {step} of" in job.text(), "it resumes", 90)
    job.slurm.run("scancel", job.number)
    job.end("CANCELLED", restarts=1)
    print(f"time limit: saved at step {step} before it, requeued, resumed")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tailor", type=pathlib.Path, default=ROOT / "build/cpu/tailor")
    parser.add_argument("--time-limit", action="store_true", help="also let a job's time run out (two minutes more)")
    options = parser.parse_args()
    tailor = options.tailor.resolve()
    expect(tailor.exists(), f"there is a program {tailor}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("test_slurm: SIGTERM, or out of time"))  # cleans up
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tailor-slurm-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)  # munge asks for it
        jobs = folder / "jobs"
        jobs.mkdir()
        with OneNodeSlurm(folder, cpus=RANKS) as slurm:
            version = slurm.run("sinfo", "--version").strip()
            print(f"{version}: one node is up after {time.monotonic() - begin:.1f} s")

            def make(name, steps):
                return Launched(slurm, tailor, jobs, name, steps)

            requeue(make, good_end(make))
            cancel(make)
            dead_rank(make)
            refusals(make)
            if options.time_limit:
                time_limit(make)
    print(f"test_slurm: all well after {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
