"""The status file: always whole, never older than a change of status."""

import dataclasses
import errno
import socket
import threading
import time
from pathlib import Path

import pytest
from process_table import wait_until

from dpscale.records import RunStatus, Status, read_status, this_machine
from dpscale.training import heartbeat
from dpscale.training.heartbeat import Heartbeat


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that stands still until it is set."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(heartbeat.time, "time", lambda: clock["now"])
    return clock


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


def test_a_long_step_is_not_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a run with long windows that looks dead from another machine.
    monkeypatch.setattr(heartbeat, "SECONDS_OF_SILENCE", 0.05)
    beats = Heartbeat(tmp_path, iterations=100)
    beats.beat(Status.RUNNING, step=7, wall_seconds=1.0, train_loss=4.5)
    first = status_in(tmp_path)
    wait_until(lambda: status_in(tmp_path).updated_unix > first.updated_unix, seconds=10)
    assert dataclasses.replace(status_in(tmp_path), updated_unix=first.updated_unix) == first
    beats.stop()
    last = status_in(tmp_path)
    time.sleep(0.3)
    assert status_in(tmp_path) == last


def test_an_end_is_not_repeated_and_a_full_disk_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    failed = threading.Event()
    monkeypatch.setattr(heartbeat, "SECONDS_OF_SILENCE", 0.05)
    beats = Heartbeat(tmp_path, iterations=100)
    beats.beat(Status.RUNNING, step=7, wall_seconds=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "write_json_atomically", full)
        assert failed.wait(10)
    beats.beat(Status.FINISHED, step=8, wall_seconds=1.0)
    time.sleep(0.3)
    assert status_in(tmp_path).status is Status.FINISHED
    beats.stop()


def test_machines_are_told_apart_without_their_names(tmp_path: Path) -> None:
    beats = Heartbeat(tmp_path, iterations=1)
    beats.beat(Status.FINISHED, wall_seconds=1.0)
    machine = status_in(tmp_path).machine
    assert machine == this_machine()
    assert machine is not None
    assert len(machine) == 12
    assert socket.gethostname() not in (tmp_path / "status.json").read_text()
