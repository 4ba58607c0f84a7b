import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpscale.errors import InputError
from dpscale.records import Status, this_machine
from dpscale.schema import to_toml
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.survey import RunState, seconds_left, survey

NOW = 1_000_000.0


def heartbeat(run_dir: Path, **changes: Any) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    fields = {
        "status": "running",
        "step": 50,
        "iterations": 200,
        "updated_unix": NOW - 1,
        "process_id": os.getpid(),
        "wall_seconds": 10.0,
        "train_loss": 4.2,
        "epsilon": 1.5,
    }
    (run_dir / "status.json").write_text(json.dumps({**fields, **changes}))


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_running_run_tells_step_loss_epsilon_and_time_left(tmp_path: Path) -> None:
    heartbeat(tmp_path)
    (state,) = survey(tmp_path, now=NOW)
    assert (state.status, state.step, state.train_loss, state.epsilon) == ("running", 50, 4.2, 1.5)
    assert state.seconds_left == pytest.approx(30.0)  # 150 of 200 steps left at 0.2 s each


@pytest.mark.parametrize(
    ("age", "alive", "status"),
    [
        (3600.0, False, Status.INTERRUPTED),
        (3600.0, True, Status.RUNNING),  # a slow step is not a death
        (1.0, False, Status.RUNNING),  # it may run on another machine
    ],
)
def test_a_run_whose_process_is_gone_is_interrupted(
    tmp_path: Path, age: float, alive: bool, status: Status
) -> None:
    pid = os.getpid() if alive else a_dead_process()
    heartbeat(tmp_path, updated_unix=NOW - age, process_id=pid)
    (state,) = survey(tmp_path, now=NOW)
    assert state.status is status


@pytest.mark.parametrize(
    ("age", "machine", "status"),
    [
        (3600.0, "another", Status.INTERRUPTED),  # a process of that number lives, but here
        (50.0, "another", Status.RUNNING),
        (-3600.0, "another", Status.RUNNING),  # clocks differ, or one has jumped
        (3600.0, this_machine(), Status.RUNNING),
        (3600.0, None, Status.RUNNING),
    ],
)
def test_a_process_is_looked_for_on_its_own_machine_only(
    tmp_path: Path, age: float, machine: str | None, status: Status
) -> None:
    heartbeat(tmp_path, updated_unix=NOW - age, machine=machine)
    (state,) = survey(tmp_path, now=NOW)
    assert state.status is status


def test_a_folder_of_run_folders_shows_each(tmp_path: Path) -> None:
    heartbeat(tmp_path / "b")
    heartbeat(tmp_path / "a", status="interrupted")
    (tmp_path / "other").mkdir()
    found = [(state.run_id, str(state.status)) for state in survey(tmp_path, now=NOW)]
    assert found == [("a", "interrupted"), ("b", "running")]


def test_a_sweep_shows_also_what_waits_and_what_failed(tmp_path: Path, fake: Any) -> None:
    folder = SweepFolder(tmp_path / "out")
    for point in fake.points:
        path = folder.config_path(point.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_toml(point.to_dict()))
    first, second, third = (point.run_id for point in fake.points)
    heartbeat(folder.run_dir(first), iterations=20, step=10)
    folder.write_failures({second: "exit code 1"})
    states = {state.run_id: state for state in survey(folder.root, now=NOW)}
    assert states[first].status is Status.RUNNING
    assert (states[second].status, states[second].error) == (Status.FAILED, "exit code 1")
    assert (states[third].status, states[third].iterations) == (Status.WAITING, 20)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_runs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        survey(tmp_path / name, now=NOW)


def state(status: Status, step: int, seconds: float, flops: float | None = 100.0) -> RunState:
    return RunState("r", status, step, 10, seconds, planned_flops=flops)


def test_time_left_counts_the_work_of_waiting_runs_and_shares_it_among_those_that_run() -> None:
    states = [
        state(Status.FINISHED, 10, 8.0, 100.0),
        state(Status.RUNNING, 5, 4.0, 100.0),
        state(Status.WAITING, 0, 0.0, 200.0),
    ]
    # 12 seconds for 150 FLOPs; 50 + 200 are left.
    assert seconds_left(states) == pytest.approx(12 / 150 * 250)
    states.append(state(Status.RUNNING, 5, 4.0, 100.0))
    assert seconds_left(states) == pytest.approx(16 / 200 * 300 / 2)
    assert seconds_left([states[0], states[2]]) == pytest.approx(8 / 100 * 200)


def test_time_left_is_unknown_before_anything_is_done() -> None:
    assert seconds_left([state(Status.WAITING, 0, 0.0)]) is None
    assert seconds_left([state(Status.WAITING, 0, 0.0, None)]) is None


def test_time_left_of_runs_without_a_config_is_that_of_the_slowest() -> None:
    states = [state(Status.RUNNING, 5, 4.0, None), state(Status.RUNNING, 1, 4.0, None)]
    assert seconds_left(states) == pytest.approx(36.0)


def test_nothing_is_left_when_all_have_ended() -> None:
    assert seconds_left([state(Status.FAILED, 5, 4.0)]) == 0.0
