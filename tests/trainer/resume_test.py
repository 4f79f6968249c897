#!/usr/bin/env python3
"""A run killed with SIGKILL at ten random moments and resumed each time ends with the bytes of an uninterrupted one.

    resume_test.py PROGRAM MODEL
"""

import pathlib
import random
import sys
import tempfile
import time

from program import Job, expect, expect_equal, kill

KILLS, STEPS, SAVE_STEPS = 10, 60, 4


def main(program, model):
    seed = int(time.time())
    print("seed of the moments:", seed)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tailor-resume-") as name:
        folder = pathlib.Path(name)
        straight = Job(program, model, folder, "straight", STEPS, SAVE_STEPS, eval_steps=6)
        begin = time.monotonic()
        straight.finish()
        whole_s = time.monotonic() - begin
        expected = straight.result()

        killed = Job(program, model, folder, "killed", STEPS, SAVE_STEPS, eval_steps=6)
        for number in range(KILLS):
            process = killed.start()
            if number % 2 == 0:
                # At any moment of the process: start, steps, saving, the end.
                time.sleep(rng.uniform(0.0, 1.2 * whole_s))
            else:
                # In the midst of steps and saving, a little further each time.
                killed.wait_for_steps(process, min(STEPS, killed.logged_steps() + rng.randrange(1, 8)))
                time.sleep(rng.uniform(0.0, 0.03))
            kill(process)
            print(f"kill {number}: {killed.logged_steps()} steps logged, {killed.checkpoints()}, code {process.returncode}")
        result, _ = killed.finish()
        expect(result["steps"] == STEPS, f"the resumed run has {STEPS} steps: {result}")
        expect_equal(killed.result(), expected, "killed and resumed")
        expect(not [p for p in killed.checkpoints() if p.startswith(".")], "no temporary folder is left")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve())
