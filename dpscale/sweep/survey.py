"""Where runs stand, read from their folders: for the sweep that started them and for `status`.

A run's own files are the only source: `result.json` once it has ended, else the heartbeat
in `status.json`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpscale.config import RunConfig
from dpscale.errors import InputError
from dpscale.records import (
    CONFIG_FILE,
    RESULT_FILE,
    STATUS_FILE,
    RunStatus,
    Status,
    read_result,
    read_status,
    this_machine,
)
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.schedule import planned_flops

STALE_SECONDS = 60.0
"""A heartbeat older than this is that of a run that was killed, unless its process is seen to live:
a run that lives writes one every ten seconds, however slow its steps are."""

_ENDS = (Status.FINISHED, Status.DIVERGED, Status.FAILED)


@dataclass(frozen=True)
class RunState:
    """Where one run stands.

    `wall_seconds` is what it has taken so far. `planned_flops` is None where the run's
    config is not known. `train_loss` is NOT PRIVATE; `epsilon` is None for a law-fitting run.
    """

    run_id: str
    status: Status
    step: int
    iterations: int | None
    wall_seconds: float
    train_loss: float | None = None
    epsilon: float | None = None
    error: str | None = None
    planned_flops: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come from this run."""
        return self.status in _ENDS

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, for a running run that has a pace; else None."""
        if self.status is not Status.RUNNING or not self.step or self.iterations is None:
            return None
        return self.wall_seconds / self.step * (self.iterations - self.step)


def survey(folder: Path, *, now: float) -> list[RunState]:
    """The runs of a folder: of a sweep, of a folder that holds run folders, or a run's own.

    Args:
      now: Unix time in seconds, against which heartbeats are judged.

    Raises:
      InputError: There is no run in the folder.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder.")
    if is_run(folder):
        return [run_state(folder, now=now)]
    sweep = SweepFolder(folder)
    points = sweep.read_points()
    if points:
        failures = sweep.read_failures()
        return [point_state(sweep, point, failures, now=now) for point in points]
    runs = sorted(path for path in folder.iterdir() if path.is_dir() and is_run(path))
    if not runs:
        raise InputError(str(folder), "no run in it; expected a run folder or one of a sweep.")
    return [run_state(run, now=now) for run in runs]


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((folder / name).exists() for name in (CONFIG_FILE, STATUS_FILE, RESULT_FILE))


def run_state(run_dir: Path, *, now: float, config: RunConfig | None = None) -> RunState:
    """Where the run in `run_dir` stands; waiting where it has written nothing yet."""
    flops = None if config is None else planned_flops(config)
    result = read_result(run_dir)
    if result is not None:
        return RunState(
            run_id=result.run_id,
            status=result.status,
            step=result.steps_taken,
            iterations=result.iterations,
            wall_seconds=result.wall_seconds,
            train_loss=result.train_loss,
            epsilon=result.epsilon,
            error=result.error,
            planned_flops=flops,
        )
    heartbeat = read_status(run_dir)
    if heartbeat is None:
        return RunState(
            run_id=run_dir.name,
            status=Status.WAITING,
            step=0,
            iterations=None if config is None else config.training.iterations,
            wall_seconds=0.0,
            planned_flops=flops,
        )
    dead = heartbeat.status is Status.RUNNING and _is_dead(heartbeat, now=now)
    return RunState(
        run_id=run_dir.name,
        status=Status.INTERRUPTED if dead else heartbeat.status,
        step=heartbeat.step,
        iterations=heartbeat.iterations,
        wall_seconds=heartbeat.wall_seconds,
        train_loss=heartbeat.train_loss,
        epsilon=heartbeat.epsilon,
        error=heartbeat.error,
        planned_flops=flops,
    )


def point_state(
    folder: SweepFolder, point: RunConfig, failures: dict[str, str], *, now: float
) -> RunState:
    """Where a point of a sweep stands; failed where the sweep recorded that it left no result."""
    state = run_state(folder.run_dir(point.run_id), now=now, config=point)
    if state.ended or point.run_id not in failures:
        return state
    return RunState(
        run_id=state.run_id,
        status=Status.FAILED,
        step=state.step,
        iterations=state.iterations,
        wall_seconds=state.wall_seconds,
        error=failures[point.run_id],
        planned_flops=state.planned_flops,
    )


def seconds_left(states: Sequence[RunState]) -> float | None:
    """How long until all runs have ended, from the seconds per FLOP of what was done so far.

    As many at a time as are running now. None where nothing was done yet, or a run's FLOPs are
    not known and it has no pace of its own.
    """
    own = [state.seconds_left for state in states if not state.ended]
    if any(state.planned_flops is None for state in states):
        paces = [left for left in own if left is not None]
        return max(paces, default=None) if len(paces) == len(own) else None
    spent = sum(state.wall_seconds for state in states)
    done = sum(_done(state) for state in states)
    if not done:
        return None
    left = sum((state.planned_flops or 0.0) - _done(state) for state in states if not state.ended)
    running = sum(state.status is Status.RUNNING for state in states)
    return spent / done * left / max(1, running)


def _done(state: RunState) -> float:
    return (state.planned_flops or 0.0) * state.step / (state.iterations or 1)


def _is_dead(heartbeat: RunStatus, *, now: float) -> bool:
    """Whether a running run has gone: silent for long, and no process of this machine."""
    if now - heartbeat.updated_unix <= STALE_SECONDS:
        return False
    is_elsewhere = heartbeat.machine is not None and heartbeat.machine != this_machine()
    return is_elsewhere or not _is_alive(heartbeat.process_id)


def _is_alive(process_id: int) -> bool:
    """Whether a process of this machine exists; also true for another user's."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
