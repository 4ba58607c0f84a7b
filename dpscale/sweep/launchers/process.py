"""One process of a task, on the machine where this runs: a child that ends with its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpscale.runtime import with_compile_cache
from dpscale.sweep.launchers.protocol import PYTHON, Ended

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ProcessSpec:
    """What is needed to start a process on any machine: plain data.

    Attributes:
      command: As in `Task`.
      log: The file that it appends its stdout and stderr to.
      working_dir: Where it starts.
      grace_seconds: Between SIGTERM and SIGKILL.
      cores: The cores it may use; empty for all of them.
    """

    command: tuple[str, ...]
    log: Path
    working_dir: Path
    grace_seconds: float = 30.0
    cores: Sequence[int] = field(default=())


class Process:
    """A child process and the processes it started; a `Job`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> Ended | None:
        """How it left; None while it runs."""
        code = self._process.poll()
        return None if code is None else Ended(code)

    @property
    def has_started(self) -> bool:
        """True: it is a process already."""
        return True

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


def start(spec: ProcessSpec, environment: Mapping[str, str]) -> Process:
    """Starts a process that ends with this one, with JAX's compile cache on.

    On Linux it is killed when the thread that called this ends: runs must not go on writing to
    folders that the next sweep works in, nor hold accelerators.
    """
    program, *arguments = spec.command
    if program == PYTHON:
        program = sys.executable
    cores = ",".join(map(str, spec.cores)) or "any"
    leash = [sys.executable, "-m", "dpscale.sweep.launchers.leash", str(os.getpid()), cores]
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with spec.log.open("ab") as output:
        process = subprocess.Popen(
            [*leash, program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=spec.working_dir,
            env=with_compile_cache(environment),
            # Ctrl-C reaches the sweep alone, which then ends its runs in order.
            process_group=0,
        )
    return Process(process)


def run_to_end(spec: ProcessSpec, environment: Mapping[str, str]) -> int:
    """Runs a process to its end, for an engine's worker; returns its exit code.

    Whatever is raised meanwhile (a cancelled task, an interrupt) asks the process to leave, ends
    it after its grace, and is raised again.
    """
    process = start(spec, environment)
    try:
        return wait(process)
    except BaseException:
        stop(process, grace_seconds=spec.grace_seconds)
        raise


def wait(process: Process) -> int:
    """The exit code of a process, once it has left."""
    while (ended := process.poll()) is None:
        time.sleep(_POLL_SECONDS)
    assert ended.exit_code is not None
    return ended.exit_code


def stop(process: Process, *, grace_seconds: float) -> None:
    """Asks a process to leave, and ends it where it has not in time."""
    process.terminate()
    deadline = time.monotonic() + grace_seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    process.kill()
