"""What Ray runs for one host of a task, in a worker of the cluster."""

import dataclasses
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from dpscale.sweep.launchers.gang import free_port, host_command
from dpscale.sweep.launchers.process import ProcessSpec, run_to_end


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
    yield run_to_end(spec, os.environ)


def _own_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
