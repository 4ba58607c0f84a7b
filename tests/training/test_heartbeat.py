"""The status file: always whole, never older than a change of status."""

from pathlib import Path

import pytest

from dpscale.records import RunStatus, Status, read_status
from dpscale.training import heartbeat
from dpscale.training.heartbeat import Heartbeat


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that stands still until it is set."""
    time = {"now": 1000.0}
    monkeypatch.setattr(heartbeat.time, "time", lambda: time["now"])
    return time


def status_in(run_dir: Path) -> RunStatus:
    status = read_status(run_dir)
    assert status is not None
    return status


def test_steps_are_written_at_most_once_a_second(tmp_path: Path, clock: dict[str, float]) -> None:
    # Catches: a file written and synced at every step of a quick run.
    beats = Heartbeat(tmp_path, iterations=100)
    for step in range(1, 50):
        clock["now"] += 0.1
        beats.beat(Status.RUNNING, step=step, wall_seconds=0.1 * step)
    assert 40 <= status_in(tmp_path).step < 50
    assert status_in(tmp_path).iterations == 100


def test_a_change_of_status_is_written_at_once(tmp_path: Path, clock: dict[str, float]) -> None:
    beats = Heartbeat(tmp_path, iterations=100)
    beats.beat(Status.RUNNING, step=7, wall_seconds=1.0, train_loss=4.5, epsilon=0.5)
    beats.beat(Status.FAILED, wall_seconds=1.1, error="the disk is full")
    status = status_in(tmp_path)
    assert (status.status, status.error) == (Status.FAILED, "the disk is full")
    assert (status.step, status.train_loss, status.epsilon) == (7, 4.5, 0.5)
