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
from dpscale.records import Status, read_result
from dpscale.schema import to_toml
from dpscale.sweep.launcher import Job, Launcher
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.schedule import next_point, program_of
from dpscale.sweep.survey import RunState, point_state

MakeCommand = Callable[[Path, Path], Sequence[str]]
"""The command of a run, from its config file and its folder."""


class Clock(Protocol):
    """Time, so that a test need not wait."""

    def now(self) -> float:
        """Unix time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The clock on the wall."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep is run; none of it changes a result.

    Args:
      retries: How often a point that died without a result is started again; a point that
        was refused (exit code 2) is not.
      poll_seconds: Between two looks at the running points.
      grace_seconds: Between asking a run to stop and killing it.
    """

    retries: int = 1
    poll_seconds: float = 0.2
    grace_seconds: float = 30.0


@dataclass
class _Running:
    point: RunConfig
    job: Job


@dataclass
class SweepRun:
    """One pass over the points of a sweep.

    Args:
      points: The runs; those that have ended already are left alone.
      make_command: What to start for a config file and a run folder.
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
    stop_requests: Callable[[], int] = lambda: 0
    observe: Callable[[list[RunState]], None] = lambda states: None

    def __post_init__(self) -> None:
        self._running: list[_Running] = []
        self._attempts: dict[str, int] = {}
        self._compiled: set[RunConfig] = set()
        self._failures: dict[str, str] = {}
        self._ended: dict[str, RunState] = {}

    def run(self) -> list[RunState]:
        """Runs what is left; returns the state of every point, all of them ended.

        The caller holds the folder's lock.

        Raises:
          RunInterrupted: A stop was requested; all runs have left and can be resumed.
        """
        for point in self.points:
            self._write_config(point)
        self.folder.write_failures(self._failures)  # earlier failures get a new chance
        waiting = [point for point in self.points if not self._has_ended(point)]
        try:
            while waiting or self._running:
                if self.stop_requests():
                    raise RunInterrupted("interrupted; run the same command again to go on.")
                self._look(waiting)
                self._start_from(waiting)
                self.observe(self._states())
                if self._running:
                    self.clock.sleep(self.settings.poll_seconds)
        finally:
            self._stop_all()
        return self._states()

    def _start_from(self, waiting: list[RunConfig]) -> None:
        """Fills the free slots of the launcher."""
        while waiting and len(self._running) < self.launcher.slots:
            compiling = {program_of(running.point) for running in self._running} - self._compiled
            point = next_point(waiting, compiling)
            waiting.remove(point)
            run_id = point.run_id
            command = self.make_command(
                self.folder.config_path(run_id), self.folder.run_dir(run_id)
            )
            job = self.launcher.launch(command, log=self.folder.log_path(run_id))
            self._attempts[run_id] = self._attempts.get(run_id, 0) + 1
            self._running.append(_Running(point, job))

    def _look(self, waiting: list[RunConfig]) -> None:
        """Settles the points whose command has left: ended, to be tried again, or failed."""
        for running in list(self._running):
            point, code = running.point, running.job.poll()
            if code is None:
                continue
            self._running.remove(running)
            self._compiled.add(program_of(point))
            if self._has_ended(point):
                continue
            if code != ExitCode.USAGE and self._attempts[point.run_id] <= self.settings.retries:
                waiting.append(point)
                continue
            self._failures[point.run_id] = failure_reason(code, self.folder.log_path(point.run_id))
            self.folder.write_failures(self._failures)

    def _states(self) -> list[RunState]:
        states = {point.run_id: self._state(point) for point in self.points}
        for running in self._running:
            state = states[running.point.run_id]
            if state.status is Status.RUNNING and state.step > 0:  # its program is in the cache
                self._compiled.add(program_of(running.point))
            if not state.ended:  # its heartbeat may be an earlier start's, or not there yet
                states[state.run_id] = dataclasses.replace(state, status=Status.RUNNING)
        return list(states.values())

    def _state(self, point: RunConfig) -> RunState:
        if point.run_id not in self._ended:
            state = point_state(self.folder, point, self._failures, now=self.clock.now())
            if not state.ended:
                return state
            self._ended[point.run_id] = state
        return self._ended[point.run_id]

    def _has_ended(self, point: RunConfig) -> bool:
        return read_result(self.folder.run_dir(point.run_id)) is not None

    def _write_config(self, point: RunConfig) -> None:
        text = to_toml(point.to_dict(), header=f"A point of a sweep: {point.run_id}")
        write_text_atomically(self.folder.config_path(point.run_id), text)

    def _stop_all(self) -> None:
        """Asks every running command to leave, and kills those that do not in time."""
        for running in self._running:
            running.job.terminate()
        requests = self.stop_requests()
        deadline = self.clock.now() + self.settings.grace_seconds
        while any(running.job.poll() is None for running in self._running):
            if self.clock.now() > deadline or self.stop_requests() > max(1, requests):
                for running in self._running:
                    running.job.kill()
            self.clock.sleep(self.settings.poll_seconds)
        self._running.clear()


def failure_reason(code: int, log: Path) -> str:
    """Why a command left no result: how it ended, and the last line that it printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "printed nothing")
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code} without a result"
    return f"{how}: {last}"


def require_data(paths: Sequence[str]) -> None:
    """Raises `InputError` where a folder of prepared data is missing, before anything runs."""
    for path in paths:
        if not Path(path).is_dir():
            raise InputError(
                "data.path", f"no folder {path!r}; run `dpscale prepare`, or --set data.path=DIR."
            )
