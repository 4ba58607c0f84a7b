"""Starting runs as commands: the protocol that the runner speaks, and the local machine.

Every engine starts the same command with the same environment, and none is believed about
how a run ended: `result.json` tells.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dpscale.runtime import with_compile_cache


class Job(Protocol):
    """A command that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it runs."""

    def terminate(self) -> None:
        """Asks it to save its state and leave (SIGTERM)."""

    def kill(self) -> None:
        """Ends it (SIGKILL)."""


class Launcher(Protocol):
    """Something that can run commands, at most `slots` at a time."""

    @property
    def slots(self) -> int:
        """How many commands it runs at once."""

    def launch(self, command: Sequence[str], *, log: Path) -> Job:
        """Starts a command whose stdout and stderr are appended to `log`."""


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class LocalLauncher:
    """Runs commands as child processes that end with this one.

    Where there is a core for every slot, each command gets one of its own: unpinned
    training processes fight for cores and both lose. XLA sizes its thread pool by the cores
    that a process may use, so a pinned one needs no further setting
    (`--xla_cpu_multi_thread_eigen=false` and `OMP_NUM_THREADS=1` changed no timing).

    Args:
      slots: Commands at a time.
      environment: What the commands inherit, with the compile cache on.
    """

    def __init__(self, slots: int, *, environment: Mapping[str, str]) -> None:
        self._slots = slots
        cores = available_cores() if sys.platform == "linux" else []
        self._cores = cores[:slots] if slots <= len(cores) else []
        self._environment = with_compile_cache(environment)
        self._core_of: dict[LocalJob, int] = {}

    @property
    def slots(self) -> int:
        """How many commands it runs at once."""
        return self._slots

    def launch(self, command: Sequence[str], *, log: Path) -> "LocalJob":
        """Starts a command on a core that no running command has."""
        self._core_of = {job: core for job, core in self._core_of.items() if job.poll() is None}
        free = [core for core in self._cores if core not in self._core_of.values()]
        leash = [sys.executable, "-m", "dpscale.sweep.leash", str(os.getpid())]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*leash, str(free[0]) if free else "any", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C reaches the sweep alone, which then ends its runs in order.
                process_group=0,
            )
        job = LocalJob(process)
        if free:
            self._core_of[job] = free[0]
        return job


class LocalJob:
    """A child process and the processes it started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Asks it to save its state and leave (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it left this moment
                os.killpg(self._process.pid, number)
