"""Ray's side of a sweep, as a process of its own: `python -m dpscale.sweep.launchers.ray_driver`.

Ray's core ends the process that uses it when the head of the cluster is gone. So a sweep keeps
Ray out of its own process, and talks with this one in lines of JSON.

It reads what to do on stdin (`run`, `terminate`, `kill`, `close`) and writes what has happened on
stdout (`connected`, `refused`, `started`, `ended`). A process is named by the number of its task
and the index of its host. When stdin ends, so does everything that it started.
"""

import json
import os
import queue
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dpscale.paths import as_path
from dpscale.sweep.launchers.process import ProcessSpec
from dpscale.sweep.launchers.ray_worker import HostPart, run_host

HEAD_SECONDS = 30
"""How long the head of the cluster may be out of reach before it counts as gone."""

_WAIT_SECONDS = 0.1

_NAMES_OF_RAY = {"CPU": "num_cpus", "GPU": "num_gpus"}
"""Amounts that Ray takes by an argument of their own; all others are custom resources."""


@dataclass
class _Host:
    """A process that was asked for: its generator, once it was handed to Ray."""

    task: int
    index: int
    part: HostPart
    yields: Any = None
    has_started: bool = False

    @property
    def name(self) -> list[int]:
        return [self.task, self.index]


@dataclass
class _Gang:
    """The hosts of a task that have not ended, and where Ray has put them."""

    amounts: dict[str, float]
    placement: Any = None
    hosts: list[_Host] = field(default_factory=list)


class Driver:
    """Runs what it is told on a cluster.

    Args:
      events: Where it says what has happened.
    """

    def __init__(self, events: IO[str]) -> None:
        self._events = events
        self._gangs: dict[int, _Gang] = {}

    def say(self, **event: Any) -> None:
        """Writes one event."""
        self._events.write(json.dumps(event) + "\n")
        self._events.flush()

    def take(self, order: dict[str, Any]) -> None:
        """Does what one line of stdin says, but for `close`."""
        if "run" in order:
            self._run(order["run"])
        for what in ("terminate", "kill"):
            if what in order:
                self._cancel(*order[what], force=what == "kill")

    def look(self) -> None:
        """Says what has happened since it looked last; waits a moment for something to."""
        import ray

        hosts = {
            host.yields: host
            for gang in self._gangs.values()
            for host in gang.hosts
            if host.yields is not None
        }
        if not hosts:
            threading.Event().wait(_WAIT_SECONDS)
            return
        ready, _ = ray.wait(list(hosts), num_returns=1, timeout=_WAIT_SECONDS, fetch_local=False)
        for yields in ready:
            self._advance(hosts[yields])

    def close(self) -> None:
        """Ends everything that it started."""
        for gang in list(self._gangs.values()):
            for host in list(gang.hosts):
                self._cancel(*host.name, force=True)

    def _run(self, order: dict[str, Any]) -> None:
        amounts, num_hosts = order["amounts"], order["hosts"]
        spec = ProcessSpec(
            command=tuple(order["command"]),
            log=as_path(order["log"]),
            working_dir=Path(order["working_dir"]),
            grace_seconds=order["grace_seconds"],
        )
        gang = _Gang({"CPU": 1.0, **amounts})
        gang.hosts = [
            _Host(order["task"], index, HostPart(spec, num_hosts, index))
            for index in range(num_hosts)
        ]
        self._gangs[order["task"]] = gang
        if num_hosts > 1:
            from ray.util.placement_group import placement_group

            gang.placement = placement_group([gang.amounts] * num_hosts, strategy="SPREAD")
        self._submit(gang, gang.hosts[0])

    def _submit(self, gang: _Gang, host: _Host) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options: dict[str, Any] = {"max_retries": 0}
        for amount, value in gang.amounts.items():
            if amount in _NAMES_OF_RAY:
                options[_NAMES_OF_RAY[amount]] = value
            else:
                options.setdefault("resources", {})[amount] = value
        if gang.placement is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                gang.placement, placement_group_bundle_index=host.index
            )
        host.yields = ray.remote(run_host).options(**options).remote(host.part)

    def _advance(self, host: _Host) -> None:
        """Takes the next thing that a host's generator has."""
        import ray

        try:
            value = ray.get(next(host.yields))
        except (Exception, StopIteration) as error:
            self._end(host, exit_code=None, reason=reason_of(error))
            return
        if host.has_started:
            self._end(host, exit_code=value, reason="")
            return
        host.has_started = True
        self.say(started=host.name)
        if host.index == 0:
            self._start_others(self._gangs[host.task], coordinator=value)

    def _start_others(self, gang: _Gang, *, coordinator: str | None) -> None:
        for host in gang.hosts:
            if host.yields is None:
                part = host.part
                host.part = HostPart(part.spec, part.num_hosts, part.host_index, coordinator)
                self._submit(gang, host)

    def _cancel(self, task: int, index: int, *, force: bool) -> None:
        import ray

        hosts = self._gangs[task].hosts if task in self._gangs else []
        for host in hosts:
            if host.index != index:
                continue
            if host.yields is None:  # it waits for the first of its gang
                self._end(host, exit_code=None, reason="cancelled")
            else:
                ray.cancel(host.yields, force=force)
            return

    def _end(self, host: _Host, *, exit_code: int | None, reason: str) -> None:
        gang = self._gangs[host.task]
        gang.hosts = [other for other in gang.hosts if other is not host]
        if not gang.hosts:
            del self._gangs[host.task]
            if gang.placement is not None:
                from ray.util.placement_group import remove_placement_group

                remove_placement_group(gang.placement)
        self.say(ended=host.name, exit_code=exit_code, reason=reason)


def reason_of(error: BaseException) -> str:
    """What became of a task, in one line."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return "cancelled"
    if isinstance(error, exceptions.RayTaskError):
        said = str(error.cause).strip().partition("\n")[0]  # Ray's own causes end in a traceback
        if "No module named 'dpscale'" in said:
            return "dpscale is not installed on its node; install it there, for Ray's Python"
        return said
    if isinstance(error, exceptions.NodeDiedError):
        return "its node is gone"
    if isinstance(error, exceptions.WorkerCrashedError):
        return "its worker died"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _check_reachable(address: str) -> None:
    """Asks the head for a connection: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if "://" in address:
        raise ValueError("give HOST:PORT of its head; Ray's client protocol is not used here")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_SECONDS).close()


def _orders(stdin: IO[str], orders: "queue.Queue[dict[str, Any]]") -> None:
    for line in stdin:
        orders.put(json.loads(line))
    orders.put({"close": True})


def main(address: str | None) -> None:
    """Connects, and does what stdin says until it ends."""
    # Ray and its children may print: that is not for the one who reads events.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # What stands in the environment already is the user's choice.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(HEAD_SECONDS))
    import ray

    driver = Driver(events)
    try:
        if address:
            _check_reachable(address)
        ray.init(address=address or "local", include_dashboard=False, log_to_driver=False)
    except Exception as error:
        driver.say(refused=str(error).strip().partition("\n")[0])
        return
    driver.say(connected=True)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_orders, args=(sys.stdin, orders), daemon=True).start()
    while True:
        while not orders.empty():
            order = orders.get()
            if "close" in order:
                driver.close()
                ray.shutdown()
                return
            driver.take(order)
        driver.look()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
