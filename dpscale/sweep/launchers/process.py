"""One process of a task, on the machine where this runs: a child that ends with its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dpscale.files import write_bytes_atomically
from dpscale.paths import is_on_bucket
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

    def __init__(self, process: subprocess.Popen[bytes], log: "_Log") -> None:
        self._process = process
        self._log = log

    def poll(self) -> Ended | None:
        """How it left; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self._log.close()
        return Ended(code)

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


class _Log:
    """A file that a process may append to; nothing can be appended to an object of a bucket.

    There what a process prints goes into a file of this machine, and to the bucket when it has
    left. Of a process that is lost with its machine nothing is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if is_on_bucket(path):
            self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - see `close`
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("ab")

    def close(self) -> None:
        """Lets go of the file, and puts what it holds where it belongs; once."""
        if self.file.closed:
            return
        if is_on_bucket(self._path):
            self.file.seek(0)
            earlier = self._path.read_bytes() if self._path.exists() else b""
            write_bytes_atomically(self._path, earlier + self.file.read())
        self.file.close()


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
    log = _Log(spec.log)
    process = subprocess.Popen(
        [*leash, program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log.file,
        stderr=subprocess.STDOUT,
        cwd=spec.working_dir,
        env=with_compile_cache(environment, cores=len(spec.cores) or None),
        # Ctrl-C reaches the sweep alone, which then ends its runs in order.
        process_group=0,
    )
    if not is_on_bucket(spec.log):
        log.close()  # the child has its own
    return Process(process, log)


def run_to_end(
    spec: ProcessSpec,
    environment: Mapping[str, str],
    *,
    should_leave: Callable[[], bool] = lambda: False,
) -> int:
    """Runs a process to its end, for an engine's worker; returns its exit code.

    Whatever is raised meanwhile (a cancelled task, an interrupt) asks the process to leave, ends
    it after its grace, and is raised again.

    Args:
      should_leave: Looked at while it runs. Once it is true the process is asked to leave too,
        and ended after its grace; how it left is returned.
    """
    process = start(spec, environment)
    try:
        while process.poll() is None and not should_leave():
            time.sleep(_POLL_SECONDS)
        stop(process, grace_seconds=spec.grace_seconds)  # nothing, where it has left already
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
