"""Sweeps of the fake train script, and single tasks, on an engine."""

import sys
from pathlib import Path
from typing import Any

from process_table import wait_until

from dpscale.sweep.launchers.protocol import Job, Resources, Task
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.runner import SweepRun, SweepSettings
from dpscale.sweep.survey import RunState

SOON = SweepSettings(retries=3, retry_seconds=1.0, poll_seconds=0.1, grace_seconds=10.0)


def sweep_run(fake: Any, launcher: Any, **changes: Any) -> SweepRun:
    """The fake script's points (`fake`, of the fixture) on an engine, not yet run."""
    return SweepRun(
        **{
            "points": fake.points,
            "folder": SweepFolder(fake.root / "out"),
            "launcher": launcher,
            "make_command": fake.command,
            "settings": SOON,
            **changes,
        }
    )


def statuses(states: list[RunState]) -> list[str]:
    """Of all runs, as words."""
    return [str(state.status) for state in states]


def task(tmp_path: Path, code: str, name: str = "t", **resources: float) -> Task:
    """Some Python that prints to `{name}.log`."""
    needs = Resources.from_dict(resources, where="t")
    command = (sys.executable, "-S", "-c", code)
    return Task(name, command, tmp_path / f"{name}.log", tmp_path, needs, grace_seconds=5.0)


def ended(job: Job, *, seconds: float = 60) -> int | None:
    """Waits for a task; its exit code, None where it was lost."""
    wait_until(lambda: job.poll() is not None, seconds=seconds)
    end = job.poll()
    assert end is not None
    return end.exit_code
