"""A rank that throws, stops or dies ends the whole job, soon and with a reason: mpi_fault_test.py PROGRAM MPIEXEC..."""

import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

from sessions import run_session

LIMIT_S = 15


def no_answer(call):
    """Of rank 0 or 1: the first ends the job."""
    return rf"error: {call} of group world, rank [01] of 3: no answer from rank 2 within 2 s"


EXPECTED = {  # fault: exit code of the job, what stands on stderr
    "throw": (2, "error: no such file"),
    "stop": (4, no_answer("all_reduce #4")),
    "watched_stop": (4, "rank 2 of the job has given no sign of life for 2 s"),
    "slow": (0, ""),  # for longer than the watch's limit, but alive
    "kill": (137, ""),
    # Where MPI has no time limit of its own.
    "stop_at_start": (4, no_answer("dup #0")),
    "stop_in_split": (4, no_answer(r"split #\d+")),
    "stop_on_node": (4, no_answer(r"barrier #\d+")),
    "stop_at_end": (4, r"error: barrier #\d+ of group world, rank 0 of 3: rank 2 of the job has given no sign of life"),
    "stop_in_finalize": (4, "error: MPI_Finalize lasts"),
}


def main() -> int:
    program, *mpiexec = sys.argv[1:]
    failures = []
    for fault, (code, line) in EXPECTED.items():
        begin = time.monotonic()
        try:
            run = run_session([*mpiexec, program, fault], timeout=60)
        except SystemExit as told:
            failures.append(f"{fault}: {told}")
            continue
        seconds = time.monotonic() - begin
        print(f"{fault}: code {run.returncode} after {seconds:.1f} s")
        if run.returncode != code or not re.search(line, run.stderr) or seconds > LIMIT_S:
            failures.append(f"{fault}: code {run.returncode} after {seconds:.1f} s; stderr:\n{run.stderr}")
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
