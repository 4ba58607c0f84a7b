"""What the runner asks of an engine: to start commands, and to say how they left.

Every engine starts the same command for a point, and none is believed about how a run ended:
`result.json` tells. So the engine may be swapped half-way through a sweep.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dpscale.errors import InputError, RunInterrupted

PYTHON = "python"
"""First word of a command that is for the interpreter of whichever machine runs it."""


@dataclass(frozen=True)
class Resources:
    """What a task occupies.

    Attributes:
      hosts: Processes that train one point together, each on a host of its own where the engine
        has several.
      amounts: What each of them needs, by the engine's names: `CPU`, `GPU`, `TPU`, or a custom
        one. Without an amount of `CPU` it is one core.
    """

    hosts: int = 1
    amounts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, where: str) -> "Resources":
        """Checks and builds `{ CPU = 2, hosts = 2 }`; `where` heads every error."""
        amounts = {}
        for name, value in fields.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value < 0:
                raise InputError(f"{where}.{name}", f"expected a number from 0, found {value!r}.")
            if name != "hosts":
                amounts[name] = float(value)
            elif not isinstance(value, int) or value < 1:
                raise InputError(f"{where}.hosts", f"expected at least 1, found {value!r}.")
        return cls(hosts=fields.get("hosts", 1), amounts=amounts)

    @property
    def cores(self) -> int:
        """Cores of one host, at least 1."""
        return max(1, math.ceil(self.amounts.get("CPU", 1)))

    def describe(self) -> str:
        """What stands in the sweep file, in words; empty for the default.

        >>> Resources(hosts=2, amounts={"TPU": 4.0}).describe()
        '2 hosts of 4 TPU'
        """
        amounts = ", ".join(f"{amount:g} {name}" for name, amount in self.amounts.items())
        if self.hosts == 1:
            return amounts
        return f"{self.hosts} hosts of {amounts}" if amounts else f"{self.hosts} hosts"


@dataclass(frozen=True)
class Task:
    """A command that an engine is asked to run.

    Attributes:
      name: The `run_id`; unlike that of any other task of the sweep.
      command: Program and arguments; `PYTHON` as the program is the machine's own interpreter.
        Where `resources.hosts` is above 1, each host's process gets the options by which
        `dpscale train` finds the others, or the engine's environment tells it.
      log: What stdout and stderr of all its processes are appended to.
      working_dir: Where the command's relative paths begin.
      grace_seconds: Between asking a process to leave (SIGTERM) and ending it (SIGKILL).
    """

    name: str
    command: tuple[str, ...]
    log: Path
    working_dir: Path
    resources: Resources = field(default_factory=Resources)
    grace_seconds: float = 30.0


@dataclass(frozen=True)
class Ended:
    """How a task's command left.

    Attributes:
      exit_code: Its exit code, negative for the signal that ended it; None where its machine or
        the engine's worker was lost, so that nobody knows.
      reason: What the engine says of it, in one line; empty where it says nothing.
    """

    exit_code: int | None
    reason: str = ""


class Job(Protocol):
    """A task that was handed to an engine; it may wait in the engine's queue."""

    def poll(self) -> Ended | None:
        """How its command left; None while it waits or runs.

        Raises:
          EngineLost: The engine cannot be reached any more.
        """

    @property
    def has_started(self) -> bool:
        """Whether its command was seen to run."""

    def terminate(self) -> None:
        """Asks its processes to save their state and leave (SIGTERM); a waiting one is dropped."""

    def kill(self) -> None:
        """Ends its processes (SIGKILL)."""


class Launcher(Protocol):
    """An engine that runs tasks."""

    @property
    def has_room(self) -> bool:
        """Whether it takes another task now; one with a queue of its own always does."""

    def launch(self, tasks: Sequence[Task]) -> Sequence[Job]:
        """Starts tasks from the front, as many as it has room for; those after them are left.

        Raises:
          EngineLost: The engine cannot be reached any more.
        """

    def close(self) -> None:
        """Lets go of the engine. Nothing that it was asked to run goes on."""


class EngineLost(RunInterrupted):
    """The engine is gone; what was finished stays, and the same command goes on with the rest."""
