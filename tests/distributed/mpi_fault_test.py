"""A rank that throws, stops or dies ends the whole job, soon and with a reason: mpi_fault_test.py PROGRAM MPIEXEC..."""

import subprocess
import sys
import time

LIMIT_S = 15
NO_ANSWER = "no answer from rank 2 within 2 s"  # of rank 0 or 1: the first ends the job
EXPECTED = {  # fault: exit code of the job, a text on stderr
    "throw": (2, "error: no such file"),
    "stop": (4, NO_ANSWER),
    "watched_stop": (4, "rank 2 of the job has given no sign of life for 2 s"),
    "slow": (0, ""),  # for longer than the watch's limit, but alive
    "kill": (137, ""),
}


def main() -> int:
    program, *mpiexec = sys.argv[1:]
    failures = []
    for fault, (code, line) in EXPECTED.items():
        begin = time.monotonic()
        try:
            run = subprocess.run([*mpiexec, program, fault], capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            failures.append(f"{fault}: does not end")
            continue
        seconds = time.monotonic() - begin
        print(f"{fault}: code {run.returncode} after {seconds:.1f} s")
        if run.returncode != code or line not in run.stderr or seconds > LIMIT_S:
            failures.append(f"{fault}: code {run.returncode} after {seconds:.1f} s; stderr:\n{run.stderr}")
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
