"""What Ray runs for one host of a task, in a worker of the cluster."""

import dataclasses
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from dpscale.sweep.launchers.gang import free_port, host_command
from dpscale.sweep.launchers.process import ProcessSpec, run_to_end

_NOTICE_SECONDS = 2.0
"""Between two looks for a notice; a node has 30 seconds from one by default."""


@dataclass(frozen=True)
class HostPart:
    """One host's part of a task.

    Attributes:
      spec: The task's process.
      num_hosts: How many there are.
      host_index: Which of them this is, from 0.
      coordinator: Where the first one is, `HOST:PORT`; None for the first one itself, which
        finds a port, and where there is one host only.
    """

    spec: ProcessSpec
    num_hosts: int = 1
    host_index: int = 0
    coordinator: str | None = None


def run_host(part: HostPart) -> Iterator[str | int | None]:
    """Runs the process of a host to its end.

    Yields:
      Twice: when it is about to start, the coordinator of its gang (None without one); when it
      has left, its exit code.

    Raises:
      FileNotFoundError: This machine does not see the folder that the sweep was started in.
    """
    spec = part.spec
    if not spec.working_dir.is_dir():
        raise FileNotFoundError(
            f"{socket.gethostname()} does not see {spec.working_dir}; share that folder with it"
        )
    coordinator = part.coordinator
    if part.num_hosts > 1:
        coordinator = coordinator or f"{_own_address()}:{free_port()}"
        command = host_command(
            spec.command,
            coordinator=coordinator,
            num_hosts=part.num_hosts,
            host_index=part.host_index,
        )
        spec = dataclasses.replace(spec, command=command)
    yield coordinator
    yield run_to_end(spec, os.environ, should_leave=_NodeNotice().has_come)


class _NodeNotice:
    """Whether this node is about to leave the cluster.

    Ray drains a node whose `ray start --block` gets SIGTERM, or that a cloud has announced to take
    back: nothing new is put there, and what runs there is killed at a deadline without a word.
    """

    def __init__(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        self._next_look = 0.0

    def has_come(self) -> bool:
        """True once it has; asks the head now and then only."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _NOTICE_SECONDS
        try:
            # As Ray's own trainer does. It is no public interface, so no run may hang on it:
            # a node that goes without a notice is lost, and the runner knows what to do.
            from ray._private.state import state

            return self._node in state.get_draining_nodes()
        except Exception:
            return False


def _own_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
