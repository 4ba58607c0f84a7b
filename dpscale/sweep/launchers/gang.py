"""A task of several processes, one a host, that start and end together.

Where one dies the others cannot go on: JAX's runtime would let them wait for it. So they are
ended at once, and the whole gang starts again from the last checkpoint.
"""

import socket
import time
from collections.abc import Callable, Sequence

from dpscale.errors import ExitCode
from dpscale.sweep.launchers.protocol import Ended, Job


def host_command(
    command: Sequence[str], *, coordinator: str, num_hosts: int, host_index: int
) -> tuple[str, ...]:
    """The command of one host: the task's, and where it finds the others."""
    hosts = ("--num-hosts", str(num_hosts), "--host-index", str(host_index))
    return (*command, "--coordinator", coordinator, *hosts)


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


class Gang:
    """Several jobs as one: it has left when all have, and leaves when one fails.

    Args:
      members: The jobs of the hosts.
      grace_seconds: How long the others may take once one has left in order.
    """

    def __init__(
        self,
        members: Sequence[Job],
        *,
        grace_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = members
        self._grace_seconds = grace_seconds
        self._monotonic = monotonic
        self._ends: dict[int, Ended] = {}
        self._first_end: float | None = None
        self._first_failure: Ended | None = None

    def poll(self) -> Ended | None:
        """How the first of them failed, or that none did; None while any waits or runs."""
        for index, member in enumerate(self._members):
            if index not in self._ends and (ended := member.poll()) is not None:
                self._take_note(index, ended)
        if len(self._ends) < len(self._members):
            self._end_those_left_behind()
            return None
        return self._first_failure or Ended(ExitCode.OK)

    @property
    def has_started(self) -> bool:
        """Whether all of them run."""
        return all(member.has_started for member in self._members)

    def terminate(self) -> None:
        """Asks all of them to leave; they agree on a step to save at."""
        for member in self._members:
            member.terminate()

    def kill(self) -> None:
        """Ends all of them."""
        for member in self._members:
            member.kill()

    def _take_note(self, index: int, ended: Ended) -> None:
        self._ends[index] = ended
        if self._first_end is None:
            self._first_end = self._monotonic()
        if ended.exit_code != ExitCode.OK and self._first_failure is None:
            self._first_failure = ended

    def _end_those_left_behind(self) -> None:
        if self._first_end is None:
            return
        failure = self._first_failure
        in_order = failure is None or failure.exit_code in (ExitCode.INTERRUPTED, ExitCode.USAGE)
        if in_order and self._monotonic() - self._first_end < self._grace_seconds:
            return
        for index, member in enumerate(self._members):
            if index not in self._ends:
                member.kill()
