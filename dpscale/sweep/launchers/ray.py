"""A Ray cluster as an engine: each host of a task is one Ray task, placed by its resources.

Ray does not retry: the runner does, for every engine alike. All points are handed to Ray at once,
longest first, so that a cluster that grows or shrinks meanwhile is used as it is.
"""

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

from dpscale.errors import InputError
from dpscale.paths import absolute
from dpscale.sweep.launchers.gang import Gang
from dpscale.sweep.launchers.protocol import Ended, EngineLost, Job, Task

CONNECT_SECONDS = 120.0
"""For a cluster to answer, or for one on this computer to start."""

_CLOSE_SECONDS = 30.0


class RayLauncher:
    """Runs tasks on a Ray cluster.

    Args:
      address: Of the cluster, as Ray takes it (`HOST:PORT` or `auto`); None starts Ray
        on this computer, and ends it with the sweep.

    Raises:
      InputError: Ray is not installed, or no cluster answers.
    """

    has_room = True
    """Ray has a queue of its own."""

    def __init__(self, *, address: str | None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise InputError("--launcher", "ray is not installed; pip install 'dpscale[ray]'.")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the launcher
        self._driver = _start_driver(address, self._said)
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._jobs: dict[tuple[int, int], _HostJob] = {}
        self._num_tasks = 0
        self._is_lost = False
        self._reader = threading.Thread(target=self._read_events, daemon=True)
        self._reader.start()
        self._wait_until_connected(address)

    def launch(self, tasks: Sequence[Task]) -> list[Job]:
        """Hands tasks to Ray, all of them.

        Raises:
          EngineLost: The cluster is gone.
        """
        return [self._submit(task) for task in tasks]

    def close(self) -> None:
        """Ends what still runs, and Ray itself where it was started here."""
        if self._said.closed:
            return
        with contextlib.suppress(EngineLost):
            self.tell(close=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._driver.wait(_CLOSE_SECONDS)
        self._end_driver()

    def tell(self, **order: Any) -> None:
        """Gives the driver an order.

        Raises:
          EngineLost: It is gone.
        """
        assert self._driver.stdin is not None
        try:
            self._driver.stdin.write(json.dumps(order).encode() + b"\n")
            self._driver.stdin.flush()
        except OSError:
            raise self._lost() from None

    def look(self) -> None:
        """Takes note of what has happened.

        Raises:
          EngineLost: The cluster is gone.
        """
        while not self._is_lost and not self._events.empty():
            event = self._events.get()
            if event is None:
                self._is_lost = True
            else:
                self._note(event)
        if self._is_lost:
            raise self._lost()

    def _submit(self, task: Task) -> Job:
        number = self._num_tasks
        self._num_tasks += 1
        needs = task.resources
        self.tell(
            run={
                "task": number,
                "command": task.command,
                "log": str(absolute(task.log)),
                "working_dir": str(task.working_dir),
                "grace_seconds": task.grace_seconds,
                "hosts": needs.hosts,
                "amounts": dict(needs.amounts),
            }
        )
        members = [_HostJob(self, (number, index)) for index in range(needs.hosts)]
        for member in members:
            self._jobs[member.name] = member
        if needs.hosts == 1:
            return members[0]
        return Gang(members, grace_seconds=task.grace_seconds)

    def _note(self, event: dict[str, Any]) -> None:
        if "started" in event:
            self._jobs[tuple(event["started"])].has_started = True
        if "ended" in event:
            job = self._jobs.pop(tuple(event["ended"]))
            job.ended = Ended(event["exit_code"], event["reason"])

    def _read_events(self) -> None:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def _wait_until_connected(self, address: str | None) -> None:
        place = "--launcher ray" if address is None else "RAY_ADDRESS"
        try:
            event = self._events.get(timeout=CONNECT_SECONDS)
        except queue.Empty:
            event = {"refused": f"no answer within {CONNECT_SECONDS:g} seconds"}
        if event is None or "refused" in event:
            reason = self._last_words() if event is None else event["refused"]
            self._end_driver()
            what = "Ray did not start" if address is None else f"no Ray cluster at {address!r}"
            raise InputError(place, f"{what} ({reason}).")

    def _end_driver(self) -> None:
        self._driver.kill()
        self._driver.wait()
        self._reader.join()  # its end of the pipe is closed
        for stream in (self._driver.stdin, self._driver.stdout, self._said):
            with contextlib.suppress(OSError):  # what nobody reads any more cannot be flushed
                stream.close()  # type: ignore[union-attr]

    def _lost(self) -> EngineLost:
        return EngineLost(
            f"the Ray cluster is gone ({self._last_words()}); run the same command again, with "
            "another cluster or launcher, to go on."
        )

    def _last_words(self) -> str:
        """The last line that the driver printed."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class _HostJob:
    """One host of a task, in Ray's hands."""

    def __init__(self, launcher: RayLauncher, name: tuple[int, int]) -> None:
        self._launcher = launcher
        self.name = name
        self.ended: Ended | None = None
        self.has_started = False

    def poll(self) -> Ended | None:
        """How it left; None while it waits or runs."""
        if self.ended is None:
            self._launcher.look()
        return self.ended

    def terminate(self) -> None:
        """Asks it to save its state and leave; one that waits is dropped."""
        self._launcher.tell(terminate=self.name)

    def kill(self) -> None:
        """Ends its worker, and with it its process."""
        self._launcher.tell(kill=self.name)


def _start_driver(address: str | None, said: IO[bytes]) -> subprocess.Popen[bytes]:
    leash = [sys.executable, "-m", "dpscale.sweep.launchers.leash", str(os.getpid()), "any"]
    driver = [sys.executable, "-m", "dpscale.sweep.launchers.ray_driver"]
    return subprocess.Popen(
        [*leash, *driver, *([address] if address else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        process_group=0,  # Ctrl-C reaches the sweep alone
    )
