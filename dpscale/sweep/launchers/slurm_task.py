"""What submitit runs on every host of a Slurm job."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dpscale.errors import ExitCode
from dpscale.files import read_json, write_json_atomically
from dpscale.sweep.launchers.gang import host_command
from dpscale.sweep.launchers.process import Process, ProcessSpec, start, stop, wait

_FIRST_PORT, _NUM_PORTS = 61440, 4096
"""Where the hosts of a gang meet: a port that follows from the job's number."""

_IN_ORDER = (ExitCode.OK, ExitCode.USAGE, ExitCode.INTERRUPTED)


@dataclass
class SlurmTask:
    """A task as it is handed to Slurm; called once on each of its hosts.

    A preempted job, or one whose node is lost, is put back into the queue by Slurm, and called
    again. One whose time is up asks for that itself (`checkpoint`, which submitit calls).

    Attributes:
      spec: The task's process.
      record: Where its hosts leave their exit codes, `record.0` and so on: there is no other way
        to know them without Slurm's database.
      num_hosts: How many there are.
    """

    spec: ProcessSpec
    record: Path
    num_hosts: int = 1
    _process: Process | None = field(default=None, init=False, repr=False)

    def __call__(self) -> None:
        """Runs this host's process to its end, and leaves its exit code in the record."""
        index = int(os.environ.get("SLURM_PROCID", "0"))
        if read_end(self.record, index) is not None:
            return  # it has left already, and Slurm put its job back into the queue all the same
        self._process = start(replace(self.spec, command=self._command(index)), os.environ)
        try:
            code = wait(self._process)
        except BaseException:
            stop(self._process, grace_seconds=self.spec.grace_seconds)
            raise
        write_end(self.record, index, code)
        if self.num_hosts > 1 and code not in _IN_ORDER:
            sys.exit(1)  # by which srun ends the others

    def checkpoint(self) -> Any:
        """Lets the process save its state and leave; returns what goes on in its place."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            stop(self._process, grace_seconds=self.spec.grace_seconds)
        return DelayedSubmission(replace(self))

    def _command(self, index: int) -> tuple[str, ...]:
        if self.num_hosts == 1:
            return self.spec.command
        return host_command(
            self.spec.command,
            coordinator=coordinator_of(os.environ),
            num_hosts=self.num_hosts,
            host_index=index,
        )


def coordinator_of(environment: Mapping[str, str]) -> str:
    """Where the first host of a job's step is, the same on all of them.

    >>> coordinator_of({"SLURM_LAUNCH_NODE_IPADDR": "192.0.2.7", "SLURM_JOB_ID": "4097"})
    '192.0.2.7:61441'
    """
    port = _FIRST_PORT + int(environment["SLURM_JOB_ID"]) % _NUM_PORTS
    return f"{environment['SLURM_LAUNCH_NODE_IPADDR']}:{port}"


def write_end(record: Path, index: int, exit_code: int) -> None:
    """Leaves the exit code of a host."""
    write_json_atomically(_end_file(record, index), {"exit_code": exit_code})


def read_end(record: Path, index: int) -> int | None:
    """The exit code that a host has left; None before."""
    path = _end_file(record, index)
    return int(read_json(path)["exit_code"]) if path.exists() else None


def _end_file(record: Path, index: int) -> Path:
    return record.with_name(f"{record.name}.{index}")
