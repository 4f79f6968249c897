"""Programs in sessions of their own: a launcher is ended together with everything that it has started."""

import atexit
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

_started = []


def start_session(command, **options):
    """Whatever is still there when the test ends is killed then."""
    process = subprocess.Popen(command, text=True, start_new_session=True, **options)
    _started.append(process)
    return process


def processes_of(process):
    """What lives in the session that `process` leads or led. mpirun gives every rank a process group of its own: the
    session is what they have in common."""
    number = process.pid
    if process.poll() is not None and pathlib.Path(f"/proc/{number}").exists():
        return []  # the number is another process's by now, which it is not as long as the session has members
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(session) == number and state not in "ZX":
            found.append(int(folder.name))
    return found


def kill_session(process):
    until = time.monotonic() + 30
    while (left := processes_of(process)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def end_of_session(process, timeout):
    """What it has written to stdout and stderr. The test fails where that takes longer than `timeout` seconds or
    processes are left behind, and none of them goes on then."""
    command = " ".join(map(str, process.args))
    try:
        texts = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_session(process)
        _, error = process.communicate(timeout=30)
        sys.exit(f"{command}: no end within {timeout} s\n{error}")
    until = time.monotonic() + 10  # who has been told to end needs a moment
    while left := processes_of(process):
        if time.monotonic() > until:
            kill_session(process)
            sys.exit(f"{command}: has ended and leaves the processes {left}\n{texts[1]}")
        time.sleep(0.01)
    _started.remove(process)
    return texts


def run_session(command, timeout, **options):
    """The like of subprocess.run()."""
    process = start_session(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, error = end_of_session(process, timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


@atexit.register
def _kill_all():
    for process in _started:
        kill_session(process)
