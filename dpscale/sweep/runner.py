"""Runs the points of a sweep, each as a command, until every one has ended.

What has ended is read from the run folders alone, so a sweep that is started again goes on
where it stopped: ended runs are skipped, interrupted ones resume, failed ones are tried
again. A point that fails leaves its reason behind, and the others go on.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dpscale.config import RunConfig
from dpscale.errors import ExitCode, InputError, RunInterrupted
from dpscale.files import write_text_atomically
from dpscale.paths import as_path
from dpscale.records import Status, read_result, saved_step
from dpscale.schema import to_toml
from dpscale.sweep.launchers.protocol import Ended, EngineLost, Job, Launcher, Resources, Task
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.schedule import in_order, program_of
from dpscale.sweep.survey import RunState, point_state

MakeCommand = Callable[[Path, Path], Sequence[str]]
"""The command of a run, from its config file and its folder."""


class Clock(Protocol):
    """Time, so that a test need not wait, and can make it jump."""

    def now(self) -> float:
        """Unix time in seconds; it may jump."""

    def monotonic(self) -> float:
        """Seconds since some moment; it never jumps."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The clock on the wall."""

    def now(self) -> float:
        """Unix time in seconds; it may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; it never jumps."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep is run; none of it changes a result.

    Args:
      retries: How often a point is started again that left without a result and without having
        saved anything new: whatever the reason, a lost machine included. One that was refused
        (exit code 2) is not started again.
      retry_seconds: The second retry waits that long, the third twice that, and so on; the first
        is at once. What a lost worker left running is gone by then.
      poll_seconds: Between two looks at the running points.
      grace_seconds: Between asking a run to stop and killing it.
    """

    retries: int = 3
    retry_seconds: float = 5.0
    poll_seconds: float = 0.2
    grace_seconds: float = 30.0


@dataclass
class _Running:
    """A point in an engine's hands, and how long its log was when it got there."""

    point: RunConfig
    job: Job
    log_bytes: int


@dataclass
class _Tries:
    """The starts of a point that brought it no further."""

    count: int = 0
    saved_step: int | None = None
    not_before: float = 0.0


@dataclass
class SweepRun:
    """One pass over the points of a sweep.

    Args:
      points: The runs; those that have ended already are left alone.
      make_command: What to start for a config file and a run folder.
      resources_of: What a point occupies.
      stop_requests: How often the user has asked to stop; the second time runs are killed
        without grace.
      observe: Called after every look at the runs, with the state of every point.
    """

    points: Sequence[RunConfig]
    folder: SweepFolder
    launcher: Launcher
    make_command: MakeCommand
    settings: SweepSettings = field(default_factory=SweepSettings)
    clock: Clock = field(default_factory=SystemClock)
    resources_of: Callable[[RunConfig], Resources] = lambda point: Resources()
    stop_requests: Callable[[], int] = lambda: 0
    observe: Callable[[list[RunState]], None] = lambda states: None

    def __post_init__(self) -> None:
        self._running: list[_Running] = []
        self._tries: dict[str, _Tries] = {}
        self._compiled: set[RunConfig] = set()
        self._failures: dict[str, str] = {}
        self._states: dict[str, RunState] = {}

    def run(self) -> list[RunState]:
        """Runs what is left; returns the state of every point, all of them ended.

        The caller holds the folder's lock.

        Raises:
          RunInterrupted: A stop was requested; all runs have left and can be resumed.
          EngineLost: The engine is gone, and with it what it ran.
        """
        for point in self.points:
            self._write_config(point)
        self.folder.write_failures(self._failures)  # earlier failures get a new chance
        self._states = {point.run_id: self._read_state(point) for point in self.points}
        waiting = [point for point in self.points if not self._has_ended(point)]
        for point in waiting:
            self._tries[point.run_id] = _Tries(saved_step=self._saved_step(point))
        try:
            while waiting or self._running:
                if self.stop_requests():
                    raise RunInterrupted("interrupted; run the same command again to go on.")
                self._look(waiting)
                self._start_from(waiting)
                self.observe(self._look_at_states())
                if waiting or self._running:
                    self.clock.sleep(self.settings.poll_seconds)
        except EngineLost:
            self._running.clear()  # nobody is left to ask
            raise
        finally:
            self._stop_all()
        return self._look_at_states()

    def _start_from(self, waiting: list[RunConfig]) -> None:
        """Hands the launcher what it has room for."""
        now = self.clock.monotonic()
        ready = [point for point in waiting if self._tries[point.run_id].not_before <= now]
        if not ready or not self.launcher.has_room:
            return
        compiling = {program_of(running.point) for running in self._running} - self._compiled
        tasks = [self._task(point) for point in in_order(ready, compiling)]
        by_name = {point.run_id: point for point in ready}
        log_bytes = [_size(task.log) for task in tasks]
        jobs = self.launcher.launch(tasks)
        for task, job, size in zip(tasks, jobs, log_bytes, strict=False):
            waiting.remove(by_name[task.name])
            self._running.append(_Running(by_name[task.name], job, size))

    def _task(self, point: RunConfig) -> Task:
        config, run_dir = self.folder.config_path(point.run_id), self.folder.run_dir(point.run_id)
        return Task(
            name=point.run_id,
            command=tuple(self.make_command(config, run_dir)),
            log=self.folder.log_path(point.run_id),
            working_dir=Path.cwd(),
            resources=self.resources_of(point),
            grace_seconds=self.settings.grace_seconds,
        )

    def _look(self, waiting: list[RunConfig]) -> None:
        """Settles the points whose command has left: ended, to be tried again, or failed."""
        for running in list(self._running):
            point, ended = running.point, running.job.poll()
            if ended is None:
                continue
            self._running.remove(running)
            self._compiled.add(program_of(point))
            self._states[point.run_id] = self._read_state(point)
            if self._has_ended(point):
                continue
            if ended.exit_code != ExitCode.USAGE and self._may_try_again(point):
                waiting.append(point)
                continue
            log = self.folder.log_path(point.run_id)
            self._failures[point.run_id] = failure_reason(ended, log, start=running.log_bytes)
            self.folder.write_failures(self._failures)
            self._states[point.run_id] = self._read_state(point)

    def _may_try_again(self, point: RunConfig) -> bool:
        """Counts a start that saved nothing new; one that did is the first of a new count."""
        tries, saved = self._tries[point.run_id], self._saved_step(point)
        if saved is not None and (tries.saved_step is None or saved > tries.saved_step):
            tries.count, tries.saved_step = 0, saved
            return True
        tries.count += 1
        wait = self.settings.retry_seconds * (tries.count - 1)
        tries.not_before = self.clock.monotonic() + wait
        return tries.count <= self.settings.retries

    def _look_at_states(self) -> list[RunState]:
        """The state of every point; only those that are in hand can have moved on."""
        for running in self._running:
            state = self._read_state(running.point)
            if state.status is Status.RUNNING and state.step > 0:  # its program is in the cache
                self._compiled.add(program_of(running.point))
            if not state.ended:  # its heartbeat may be an earlier start's, or not there yet
                status = Status.RUNNING if running.job.has_started else Status.WAITING
                state = dataclasses.replace(state, status=status)
            self._states[state.run_id] = state
        return [self._states[point.run_id] for point in self.points]

    def _read_state(self, point: RunConfig) -> RunState:
        return point_state(self.folder, point, self._failures, now=self.clock.now())

    def _has_ended(self, point: RunConfig) -> bool:
        return read_result(self.folder.run_dir(point.run_id)) is not None

    def _saved_step(self, point: RunConfig) -> int | None:
        return saved_step(self.folder.run_dir(point.run_id))

    def _write_config(self, point: RunConfig) -> None:
        text = to_toml(point.to_dict(), header=f"A point of a sweep: {point.run_id}")
        write_text_atomically(self.folder.config_path(point.run_id), text)

    def _stop_all(self) -> None:
        """Asks every running command to leave, and kills those that do not in time."""
        for running in self._running:
            running.job.terminate()
        requests = self.stop_requests()
        deadline = self.clock.monotonic() + self.settings.grace_seconds
        while any(running.job.poll() is None for running in self._running):
            is_late = self.clock.monotonic() > deadline
            if is_late or self.stop_requests() > max(1, requests):
                for running in self._running:
                    running.job.kill()
            self.clock.sleep(self.settings.poll_seconds)
        self._running.clear()


def failure_reason(ended: Ended, log: Path, *, start: int = 0) -> str:
    """Why a command left no result: how it ended, and what it said of it.

    That is its own last word (`dpscale train: ...`) where it had one, else the last line there is.

    Args:
      start: Bytes of the log that are of earlier tries.
    """
    printed = log.read_bytes()[start:].decode(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in printed.split("\n") if line.strip()]
    own = [line for line in lines if line.startswith("dpscale ")]
    return f"{_how(ended)}: {[*lines, *own][-1] if lines else 'printed nothing'}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _how(ended: Ended) -> str:
    if ended.exit_code is None:
        return f"lost ({ended.reason})" if ended.reason else "lost"
    if ended.exit_code < 0:
        return f"killed by signal {-ended.exit_code}"
    return f"exit code {ended.exit_code} without a result"


def require_data(paths: Sequence[str]) -> None:
    """Raises `InputError` where a folder of prepared data is missing, before anything runs."""
    for path in paths:
        if not as_path(path).is_dir():
            raise InputError(
                "data.path", f"no folder {path!r}; run `dpscale prepare`, or --set data.path=DIR."
            )
