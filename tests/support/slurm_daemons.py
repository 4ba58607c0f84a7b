"""A real Slurm of two nodes on loopback, started and stopped by hand: no systemd, no database."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from process_table import descendants, wait_until

PACKAGES = "slurmctld slurmd slurm-client munge"

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=200000
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """Daemons, as process groups of this process.

    Args:
      root: An empty folder; short, as munge's socket lies below it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def conf(self) -> str:
        return str(self._root / "slurm.conf")

    def start(self) -> None:
        """Starts all of it; returns when both nodes are ready."""
        for folder in ("munge", "state", "spool", "out"):
            (self._root / folder).mkdir(mode=0o700)
        (self._root / "munge" / "key").write_bytes(secrets.token_bytes(1024))
        (self._root / "munge" / "key").chmod(0o400)
        ports = [_free_port() for _ in range(3)]
        text = CONF.format(host=socket.gethostname(), root=self._root, ports=ports)
        Path(self.conf).write_text(text)
        munge = {name: f"{self._root}/munge/{name}" for name in ("key", "socket", "pid", "seed")}
        self._daemon(
            *("munged", "--force", "--foreground", f"--key-file={munge['key']}"),
            *(f"--socket={munge['socket']}", f"--pid-file={munge['pid']}"),
            *(f"--seed-file={munge['seed']}", f"--log-file={self._root}/munge/log"),
        )
        wait_until(lambda: Path(munge["socket"]).exists())
        self._daemon("slurmctld", "-D", "-f", self.conf)
        for node in ("n1", "n2"):
            self.start_node(node)
        wait_until(lambda: self.states() == {"n1": "idle", "n2": "idle"})

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-D", "-N", node, "-f", self.conf, name=node)

    def lose_node(self, node: str) -> None:
        """Kills every process of a node, as if its machine were switched off."""
        for pid in self.processes_of(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemons.pop(node).wait()

    def processes_of(self, node: str) -> list[int]:
        """A node's daemon, and all that runs in its jobs.

        Tests that run beside these have a Slurm of their own, with nodes of the same names.
        """
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.conf}".encode()}
        daemon = self._daemons[node].pid
        found = [daemon, *descendants(daemon)]
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if marks <= set(path.read_bytes().split(b"\0")):
                    found.append(int(path.parent.name))
        return found

    def states(self) -> dict[str, str]:
        """What sinfo says of the nodes."""
        try:
            text = self.ask("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %t")
        except subprocess.CalledProcessError:
            return {}
        return dict(line.split() for line in text.splitlines())

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        environment = os.environ | {"SLURM_CONF": self.conf}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def queue(self) -> dict[str, str]:
        """The state of each job, by its number."""
        text = self.ask("squeue", "--noheader", "--array", "--format=%i %T")
        return dict(line.split() for line in text.splitlines())

    def start_held_jobs(self) -> None:
        """Slurm holds a job that it has put back into the queue for two minutes; tests do not.

        They wait for a second: a node refuses what starts in the one in which it ended the job.
        """
        held = [number for number, state in self.queue().items() if state == "PENDING"]
        if held:
            time.sleep(1.1)
        for number in held:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ask("scontrol", "update", f"JobId={number}", "StartTime=now")

    def empty(self) -> None:
        """Takes all jobs out."""
        self.ask("scancel", "--quiet", f"--user={os.getuid()}")
        wait_until(lambda: not self.queue())

    def stop(self) -> None:
        """Ends all of it."""
        for node in ("n1", "n2"):
            if node in self._daemons:
                self.lose_node(node)
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()

    def _daemon(self, program: str, *arguments: str, name: str = "") -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        found = shutil.which(program, path=path)
        assert found, f"no {program} here; run: apt-get install {PACKAGES}"
        with (self._root / "out" / f"{name or program}.{time.time()}").open("wb") as out:
            self._daemons[name or program] = subprocess.Popen(
                [found, *arguments],
                stdout=out,
                stderr=out,
                env=os.environ | {"SLURM_CONF": self.conf},
                start_new_session=True,
            )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
