"""Slurm on this machine alone, for tests: its own configuration, ports and folder, no systemd, no root."""

import getpass
import os
import pathlib
import re
import socket
import subprocess
import time

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
TmpFS={folder}/tmp
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until(condition, what, limit_s):
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"after {limit_s} s still not so: {what}")
        time.sleep(0.1)


class OneNodeSlurm:
    """`with OneNodeSlurm(folder, cpus) as slurm`: munged, slurmctld and slurmd run until the end of the block."""

    def __init__(self, folder, cpus):
        self.folder = pathlib.Path(folder)
        self.daemons = []
        controller_port, node_port = free_ports(2)
        for name in ("munge", "controller", "node", "tmp"):
            (self.folder / name).mkdir(mode=0o755)  # munge refuses a folder that others may write to
        conf = self.folder / "slurm.conf"
        conf.write_text(
            CONF.format(
                host=socket.gethostname().split(".")[0],
                controller_port=controller_port,
                node_port=node_port,
                user=getpass.getuser(),
                folder=self.folder,
                cpus=cpus,
            )
        )
        # Nothing of a Slurm that this may run in.
        kept = {k: v for k, v in os.environ.items() if not re.match("(SLURM|SBATCH|SRUN|PMI|OMPI_COMM)", k)}
        sbin = f"{kept.get('PATH', '')}:/usr/sbin:/sbin"
        self.environment = {**kept, "PATH": sbin, "SLURM_CONF": str(conf)}

    def __enter__(self):
        try:
            self._start_munge()
            self._start("slurmctld", "-D", "-i", "-f", self.folder / "slurm.conf")
            self._start("slurmd", "-D", "-f", self.folder / "slurm.conf")
            wait_until(self._is_idle, "the node is idle", 60)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exception):
        if exception[0] is not None:
            print(self.logs())
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=self.environment, timeout=20, check=False)
        try:
            wait_until(lambda: not self.run("squeue", "--noheader").strip(), "no job is left", 30)
        except (TimeoutError, subprocess.SubprocessError) as error:
            print("slurm:", error)
        self._stop()

    def run(self, *command):
        """Standard output of a Slurm command."""
        words = [str(part) for part in command]
        options = {"capture_output": True, "text": True, "timeout": 30, "check": False}
        done = subprocess.run(words, env=self.environment, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, *arguments):
        return int(self.run("sbatch", "--parsable", *arguments))

    def job(self, number):
        """What the controller says of a job, e.g. JobState, ExitCode, Restarts."""
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", number)))

    def is_alive(self, number):
        return self.job(number)["JobState"] in ("PENDING", "RUNNING", "COMPLETING")

    def wait_for_end(self, number, limit_s):
        wait_until(lambda: not self.is_alive(number), f"job {number} ended", limit_s)
        return self.job(number)

    def logs(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def _start_munge(self):
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        options = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        paths = [f"--{option}={folder / file}" for option, file in options.items()]
        self._start("munged", "--foreground", "--num-threads=2", *paths)
        wait_until((folder / "socket").exists, "munged answers", 20)

    def _start(self, *command):
        with open(self.folder / f"{command[0]}.out.log", "w") as log:
            self.daemons.append(
                subprocess.Popen(
                    [str(part) for part in command],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _is_idle(self):
        for daemon in self.daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args[0]} ended with code {daemon.returncode}\n{self.logs()}")
        try:
            return self.run("sinfo", "--noheader", "--format=%T").strip() == "idle"
        except RuntimeError:
            return False  # the controller does not answer yet

    def _stop(self):
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(timeout=15)
