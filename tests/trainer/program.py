"""Runs the program `tailor` for tests: a small job on a tiny model, its results, what it left on disk."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

from sessions import end_of_session, start_session

TIMES = {
    "tokens_per_second",
    "supervised_tokens_per_second",
    "step_time_s",
    "rss_bytes",
    "eval_runtime_s",
    "rollout_tokens_per_second",
    "rollout_time_s",
    "reward_time_s",
    "reward_busy_s",
    "measure_time_s",
    "update_time_s",
    "update_tokens_per_second",
}

JOB = """\
task: sft
model: {{name_or_path: {model}, dtype: float32}}
peft: {{method: lora, r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: all-linear}}
data:
  train: [{{path: train.jsonl, format: messages}}]
  eval: [{{path: test.jsonl, format: prompt_completion}}]
  max_length: 96
  packing: true
train:
  learning_rate: 5.0e-3
  lr_scheduler_type: cosine
  warmup_ratio: 0.1
  max_steps: {steps}
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  seed: 7
  threads: 1
output: {{dir: {run}, save_steps: {save_steps}, save_total_limit: 2, eval_steps: {eval_steps}, logging_steps: 1}}
"""

# Two steps from a batch, twice: checkpoints fall into the middle of batches.
GRPO_JOB = """\
task: grpo
model: {{name_or_path: {model}, dtype: float32}}
peft: {{method: lora, r: 4, lora_alpha: 8, target_modules: all-linear}}
data:
  train: [{{path: prompts.jsonl}}]
  eval: [{{path: prompts.jsonl}}]
  max_length: 96
grpo:
  num_generations: 4
  max_completion_length: 8
  steps_per_generation: 2
  num_iterations: 2
  beta: 0.01
rewards: [{{name: regex, pattern: "[aeiou]"}}]
train:
  learning_rate: 5.0e-3
  lr_scheduler_type: constant
  max_steps: {steps}
  per_device_train_batch_size: 8
  seed: 7
  threads: 1
output: {{dir: {run}, save_steps: {save_steps}, save_total_limit: 2, eval_steps: {eval_steps}, logging_steps: 1}}
"""

# The next batch is sampled before the last three of four steps, and rewards take their time.
GRPO_AHEAD_JOB = GRPO_JOB.replace("  beta: 0.01\n", "  beta: 0.01\n  max_staleness: 3\n").replace(
    'rewards: [{{name: regex, pattern: "[aeiou]"}}]', "rewards: [{{python: slow.py:vowels}}]"
)

SLOW_REWARD = """\
import random
import time


def vowels(completions, **rest):
    time.sleep(random.uniform(0.0, 0.05))
    return [float(any(c in text for c in "aeiou")) for text in completions]
"""


def write_data(folder):
    rng = random.Random(5)
    (folder / "slow.py").write_text(SLOW_REWARD)
    with open(folder / "train.jsonl", "w") as out:
        for _ in range(40):
            a, b = rng.randrange(50), rng.randrange(50)
            row = {
                "messages": [
                    {"role": "user", "content": f"{a} and {b}?"},
                    {"role": "assistant", "content": f"{a + b}"},
                ]
            }
            out.write(json.dumps(row) + "\n")
    with open(folder / "test.jsonl", "w") as out:
        for _ in range(4):
            a, b = rng.randrange(50), rng.randrange(50)
            out.write(json.dumps({"prompt": f"{a} and {b}?", "completion": f" {a + b}"}) + "\n")
    with open(folder / "prompts.jsonl", "w") as out:
        for _ in range(10):
            a, b = rng.randrange(50), rng.randrange(50)
            out.write(json.dumps({"prompt": f"{a} and {b}?", "answer": str(a + b)}) + "\n")


class Job:
    """A job file, its data and its run directory in a folder of the test's."""

    def __init__(self, program, model, folder, name="run", steps=20, save_steps=5, eval_steps=5, job=JOB):
        self.program = program
        self.run = folder / name
        self.file = folder / f"{name}.yaml"
        if not (folder / "train.jsonl").exists():
            write_data(folder)
        self.file.write_text(
            job.format(
                model=json.dumps(str(model)), run=name, steps=steps, save_steps=save_steps, eval_steps=eval_steps
            )
        )

    def command(self, *more):
        return [str(self.program), "train", str(self.file), "--json", *more]

    def start(self, *more, **options):
        return start_session(self.command(*more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def finish(self, *more, code=0, **options):
        """Runs to the end; answers (result, text on stderr)."""
        process = self.start(*more, **options)
        out, error = end_of_session(process, timeout=240)
        if process.returncode != code:
            sys.exit(f"{' '.join(self.command(*more))}: expected code {code}, got {process.returncode}\n{error}")
        return (json.loads(out) if out else None), error

    def checkpoints(self):
        folder = self.run / "checkpoints"
        return sorted(p.name for p in folder.iterdir()) if folder.exists() else []

    def logged_steps(self):
        file = self.run / "metrics.jsonl"
        return file.read_bytes().count(b'"loss"') if file.exists() else 0

    def wait_for_steps(self, process, steps):
        while process.poll() is None and self.logged_steps() < steps:
            time.sleep(0.002)

    def result(self):
        """Everything that two equal runs have in common: metrics without times, adapter and the last checkpoint."""
        lines = (self.run / "metrics.jsonl").read_text().splitlines()
        metrics = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        files = {}
        for folder in (self.run / "adapter", self.run / "checkpoints" / self.checkpoints()[-1]):
            for file in sorted(folder.iterdir()):
                files[f"{folder.name}/{file.name}"] = file.read_bytes()
        completions = self.run / "completions.jsonl"
        if completions.exists():
            files[completions.name] = completions.read_bytes()
        return metrics, files


def expect_equal(result, other, what):
    for (mine, theirs), kind in zip(zip(result, other), ("metrics", "files")):
        if mine == theirs:
            continue
        if kind == "files":
            names = [n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)]
            sys.exit(f"{what}: other bytes in {names}")
        for a, b in zip(mine, theirs):
            if a != b:
                sys.exit(f"{what}: other metrics:\n  {a}\n  {b}")
        sys.exit(f"{what}: {len(mine)} lines of metrics against {len(theirs)}")


def expect(condition, what):
    if not condition:
        sys.exit(f"not so: {what}")


def kill(process, number=signal.SIGKILL):
    process.send_signal(number)
    return process.communicate(timeout=120)


def descendants(pid):
    """Processes that it started, and that these did."""
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(child)


def pid_of_rank(process, rank):
    """Of the ranks that mpirun, `process`, started."""
    for pid in descendants(process.pid):
        try:
            words = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for name in (b"OMPI_COMM_WORLD_RANK", b"PMIX_RANK", b"PMI_RANK"):
            if name + b"=" + str(rank).encode() in words:
                return pid
    sys.exit(f"no process is rank {rank}")


def run_program(program, *arguments, code=0):
    """Runs `tailor ARGUMENTS` to its end, which must be `code`."""
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if result.returncode != code:
        sys.exit(f"tailor {arguments}: expected code {code}, got {result.returncode}\n{result.stderr}")
    return result


TESTS = []


def test(function):
    """Marks a property that `run_tests` checks."""
    TESTS.append(function)
    return function


def run_tests(names, make):
    """Each test with what `make` makes of a folder of its own; `names`: only these, where there are some."""
    unknown = set(names) - {function.__name__ for function in TESTS}
    if unknown:
        sys.exit(f"no such test: {sorted(unknown)}")
    if not TESTS:
        sys.exit("no function is marked with @test")
    for function in TESTS:
        if names and function.__name__ not in names:
            continue
        begin = time.monotonic()
        print(function.__name__.replace("_", " "), flush=True)
        with tempfile.TemporaryDirectory(prefix="tailor-test-") as folder:
            function(make(pathlib.Path(folder)))
        print(f"  {time.monotonic() - begin:.1f} s", flush=True)
