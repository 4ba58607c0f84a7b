"""This machine as an engine: commands as child processes that end with this one."""

import sys
from collections.abc import Mapping, Sequence

from dpscale.runtime import available_cores
from dpscale.sweep.launchers.gang import Gang, free_port, host_command
from dpscale.sweep.launchers.process import ProcessSpec, start
from dpscale.sweep.launchers.protocol import Job, Task


class LocalLauncher:
    """Runs tasks on this machine, at most `slots` at a time.

    Where there are cores for every slot, each task gets cores of its own: unpinned training
    processes fight for cores and both lose. XLA sizes its thread pool by the cores that a
    process may use, so a pinned one needs no further setting
    (`--xla_cpu_multi_thread_eigen=false` and `OMP_NUM_THREADS=1` changed no timing).

    Args:
      slots: Tasks at a time, at least 1.
      environment: What the commands inherit, with the compile cache on.
      cores: What the largest task needs, over all its hosts.
    """

    def __init__(self, slots: int, *, environment: Mapping[str, str], cores: int = 1) -> None:
        self._slots = slots
        available = available_cores() if sys.platform == "linux" else []
        is_pinned = slots * cores <= len(available)
        self._places = _parts(available, cores)[:slots] if is_pinned else []
        self._environment = environment
        self._jobs: list[Job] = []
        self._place_of: dict[Job, list[int]] = {}

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        self._jobs = [job for job in self._jobs if job.poll() is None]
        return len(self._jobs) < self._slots

    def launch(self, tasks: Sequence[Task]) -> list[Job]:
        """Starts tasks on cores that no running task has, while a slot is free."""
        launched = []
        for task in tasks:
            if not self.has_room:
                break
            taken = [self._place_of.get(job) for job in self._jobs]
            place = next((place for place in self._places if place not in taken), [])
            job = self._start(task, place)
            self._place_of[job] = place
            self._jobs.append(job)
            launched.append(job)
        return launched

    def close(self) -> None:
        """Ends what still runs."""
        for job in self._jobs:
            job.kill()

    def _start(self, task: Task, place: list[int]) -> Job:
        members = [
            start(
                ProcessSpec(command, task.log, task.working_dir, task.grace_seconds, cores),
                self._environment,
            )
            for command, cores in zip(_host_commands(task), _host_cores(task, place), strict=True)
        ]
        if len(members) == 1:
            return members[0]
        return Gang(members, grace_seconds=task.grace_seconds)


def _host_commands(task: Task) -> list[tuple[str, ...]]:
    hosts = task.resources.hosts
    if hosts == 1:
        return [task.command]
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        host_command(task.command, coordinator=coordinator, num_hosts=hosts, host_index=index)
        for index in range(hosts)
    ]


def _host_cores(task: Task, place: list[int]) -> list[list[int]]:
    """The part of a place that each host gets; empty, for all cores, where it is too small."""
    parts = _parts(place, task.resources.cores)[: task.resources.hosts]
    return parts if len(parts) == task.resources.hosts else [[]] * task.resources.hosts


def _parts(numbers: list[int], size: int) -> list[list[int]]:
    """Whole parts of `size`; what is left at the end is left."""
    starts = range(0, len(numbers) - size + 1, size)
    return [numbers[begin : begin + size] for begin in starts]
