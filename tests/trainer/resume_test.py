#!/usr/bin/env python3
"""A run killed with SIGKILL at ten random moments and resumed each time ends with the bytes of an uninterrupted one.

    resume_test.py PROGRAM MODEL [grpo | grpo_ahead]
"""

import pathlib
import random
import signal
import sys
import tempfile
import time

from program import GRPO_AHEAD_JOB, GRPO_JOB, JOB, Job, expect, expect_equal, kill

KILLS, SAVE_STEPS, EVAL_STEPS = 10, 5, 6


def main(program, model, job, steps):
    seed = int(time.time())
    print("seed of the moments:", seed)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tailor-resume-") as name:
        folder = pathlib.Path(name)
        straight = Job(program, model, folder, "straight", steps, SAVE_STEPS, EVAL_STEPS, job)
        straight.finish()

        killed = Job(program, model, folder, "killed", steps, SAVE_STEPS, EVAL_STEPS, job)
        in_the_midst = 0
        for number in range(KILLS):
            process = killed.start()
            if number % 5 == 4:
                time.sleep(rng.uniform(0.0, 0.3))  # while it starts
            else:
                # In a step, an evaluation or a checkpoint, a little further each time.
                part = steps // (KILLS + 1)
                killed.wait_for_steps(process, part * number + rng.randint(1, part))
                time.sleep(rng.uniform(0.0, 0.02))
            kill(process)
            print(f"kill {number}: {killed.logged_steps()} steps logged, {killed.checkpoints()}")
            # On a fast machine a late one may find the run at its end.
            expect(process.returncode in (-signal.SIGKILL, 0), f"killed or done: {process.returncode}")
            in_the_midst += process.returncode == -signal.SIGKILL
        expect(in_the_midst >= KILLS - 2, f"kills in the midst of the run: {in_the_midst}")
        result, _ = killed.finish()
        expect(result["steps"] == steps, f"the resumed run has {steps} steps: {result}")
        expect_equal(killed.result(), straight.result(), "killed and resumed")
        expect(not [p for p in killed.checkpoints() if p.startswith(".")], "no temporary folder is left")


if __name__ == "__main__":
    job, steps = {"sft": (JOB, 80), "grpo": (GRPO_JOB, 40), "grpo_ahead": (GRPO_AHEAD_JOB, 40)}[(sys.argv[3:] or ["sft"])[0]]
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), job, steps)
