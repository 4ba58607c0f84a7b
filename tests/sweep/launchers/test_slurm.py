"""Sweeps on a real Slurm of two nodes on loopback, and what it does to them."""

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_sweep import ended, statuses, sweep_run, task
from process_table import is_alive, parent_of, wait_until
from real_sweep import dpscale, finish, furthest_step, losses, make_folder, trainings
from slurm_daemons import Slurm

from dpscale.config import RunConfig
from dpscale.errors import InputError, RunInterrupted
from dpscale.sweep.launchers.local import LocalLauncher
from dpscale.sweep.launchers.slurm import SlurmLauncher
from dpscale.sweep.runner import SweepSettings
from dpscale.sweep.survey import RunState

pytestmark = pytest.mark.cluster


@contextlib.contextmanager
def own_slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="sl", dir="/tmp", ignore_cleanup_errors=True) as root:
        slurm = Slurm(Path(root))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


@pytest.fixture(scope="module")
def daemons() -> Iterator[Slurm]:
    with own_slurm() as slurm:
        yield slurm


@pytest.fixture
def slurm(daemons: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The daemons, with an empty queue before and after."""
    monkeypatch.setenv("SLURM_CONF", daemons.conf)
    daemons.empty()
    yield daemons
    daemons.empty()


@pytest.fixture
def launcher(slurm: Slurm, tmp_path: Path) -> Iterator[SlurmLauncher]:
    opened = SlurmLauncher(tmp_path / "slurm", options={"partition": "low"})
    yield opened
    opened.close()


def process_of(fake: Any, point: RunConfig) -> int:
    """The process of the first start of a point."""
    return next(int(s["pid"]) for s in fake.starts() if s["out"].endswith(point.run_id))


def test_tests_that_run_beside_these_keep_their_jobs(
    slurm: Slurm, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    """Each worker of a test run has a Slurm, and its tests kill what runs on a node of it."""
    code = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.1)"
    (job,) = launcher.launch([task(tmp_path, code)])
    wait_until(lambda: "RUNNING" in slurm.queue().values())
    with own_slurm() as other:
        other.lose_node("n1")
        other.lose_node("n2")
    (tmp_path / "go").touch()
    assert ended(job) == 0


def test_points_become_one_array_and_print_to_their_logs(
    slurm: Slurm, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    code = "import time; print('here', flush=True); time.sleep(2)"
    jobs = launcher.launch([task(tmp_path, code, name) for name in "abc"])
    wait_until(lambda: len(slurm.queue()) == 3)
    numbers = sorted(slurm.queue())
    assert [number.partition("_")[2] for number in numbers] == ["0", "1", "2"]
    assert len({number.partition("_")[0] for number in numbers}) == 1
    wait_until(lambda: [job.poll() for job in jobs] == [None] * 3 and jobs[0].has_started)
    assert [ended(job) for job in jobs] == [0, 0, 0]
    assert [(tmp_path / f"{name}.log").read_text() for name in "abc"] == ["here\n"] * 3


def test_points_of_other_needs_are_other_jobs(
    slurm: Slurm, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    code = "import os; print(os.environ['SLURM_CPUS_PER_TASK'])"
    tasks = [
        task(tmp_path, code, "a", CPU=2),
        task(tmp_path, code, "b"),
        task(tmp_path, code, "c", CPU=2),
    ]
    assert [ended(job) for job in launcher.launch(tasks)] == [0, 0, 0]
    assert [(tmp_path / f"{name}.log").read_text().strip() for name in "abc"] == ["2", "1", "2"]


def test_the_fake_sweep_finishes(slurm: Slurm, launcher: SlurmLauncher, fake: Any) -> None:
    assert statuses(sweep_run(fake, launcher).run()) == ["finished"] * 3
    wait_until(lambda: not slurm.queue())


def test_a_run_killed_in_mid_run_is_started_again(
    slurm: Slurm, launcher: SlurmLauncher, fake: Any, points: list[RunConfig]
) -> None:
    fake.plan({points[0].run_id: "hang once"})
    killed: list[int] = []

    def kill(states: list[RunState]) -> None:
        if states[0].step == 10 and not killed:
            killed.append(
                next(s["pid"] for s in fake.starts() if s["out"].endswith(points[0].run_id))
            )
            os.kill(killed[0], signal.SIGKILL)

    assert statuses(sweep_run(fake, launcher, observe=kill).run()) == ["finished"] * 3
    assert fake.started_runs().count(points[0].run_id) == 2


def test_a_job_whose_watcher_is_killed_is_lost_and_started_again(
    slurm: Slurm, launcher: SlurmLauncher, fake: Any, points: list[RunConfig]
) -> None:
    fake.plan({points[0].run_id: "hang once"})
    killed: list[int] = []

    def kill(states: list[RunState]) -> None:
        if states[0].step == 10 and not killed:
            process = process_of(fake, points[0])
            os.kill(parent_of(process), signal.SIGKILL)
            wait_until(lambda: not is_alive(process))
            killed.append(process)

    assert statuses(sweep_run(fake, launcher, observe=kill).run()) == ["finished"] * 3
    assert killed


def test_a_node_lost_and_back_again(
    slurm: Slurm, launcher: SlurmLauncher, fake: Any, points: list[RunConfig]
) -> None:
    fake.plan(dict.fromkeys((point.run_id for point in points), "hang once"))
    lost: list[str] = []

    def lose(states: list[RunState]) -> None:
        slurm.start_held_jobs()
        if sum(state.step == 10 for state in states) == 3 and not lost:
            fake.plan()
            slurm.lose_node("n1")
            lost.append("n1")
            wait_until(lambda: slurm.states()["n1"].startswith("down"), seconds=90)
            slurm.start_node("n1")
            for start in fake.starts():  # those on the other node hang on
                if is_alive(start["pid"]):
                    os.kill(start["pid"], signal.SIGKILL)

    assert statuses(sweep_run(fake, launcher, observe=lose).run()) == ["finished"] * 3
    assert lost
    wait_until(lambda: slurm.states() == {"n1": "idle", "n2": "idle"})


def test_a_point_that_always_fails_harms_no_other(
    slurm: Slurm, launcher: SlurmLauncher, fake: Any, points: list[RunConfig]
) -> None:
    fake.plan({points[1].run_id: "crash"})
    run = sweep_run(fake, launcher, settings=SweepSettings(retries=1, poll_seconds=0.1))
    states = run.run()
    assert statuses(states) == ["finished", "failed", "finished"]
    assert states[1].error == "exit code 1 without a result: ValueError: the disk is full"
    assert fake.started_runs().count(points[1].run_id) == 2


def test_a_stop_lets_runs_save_and_another_engine_goes_on(
    slurm: Slurm, launcher: SlurmLauncher, fake: Any, points: list[RunConfig]
) -> None:
    fake.plan(dict.fromkeys((point.run_id for point in points), "hang once"))
    seen: list[list[RunState]] = []
    run = sweep_run(
        fake,
        launcher,
        observe=seen.append,
        stop_requests=lambda: int(bool(seen) and sum(s.step > 0 for s in seen[-1]) == 3),
    )
    with pytest.raises(RunInterrupted):
        run.run()
    written = [path.read_text() for path in run.folder.root.glob("runs/*/status.json")]
    assert [json.loads(text)["status"] for text in written] == ["interrupted"] * 3
    wait_until(lambda: not slurm.queue())
    assert statuses(sweep_run(fake, LocalLauncher(2, environment={})).run()) == ["finished"] * 3


def test_what_a_killed_sweep_left_in_the_queue_is_stopped_by_the_next(
    slurm: Slurm, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(75)))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)"
    )
    launcher.launch([task(tmp_path, code, name) for name in "abcdef"])  # four run, two wait
    logs = [tmp_path / f"{name}.log" for name in "abcd"]
    wait_until(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs))
    SlurmLauncher(tmp_path / "slurm", options={})
    assert not slurm.queue()
    assert [log.read_text().split()[1] for log in logs] == ["saved"] * 4
    assert not any(is_alive(int(log.read_text().split()[0])) for log in logs)


def test_hosts_of_a_point_run_on_nodes_of_their_own_and_find_each_other(
    slurm: Slurm, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    code = "import os, sys; print(os.environ['SLURMD_NODENAME'], *sys.argv[1:], flush=True)"
    (job,) = launcher.launch([task(tmp_path, code, hosts=2)])
    assert ended(job) == 0
    first, second = sorted(line.split() for line in (tmp_path / "t.log").read_text().splitlines())
    assert (first[0], second[0]) == ("n1", "n2")
    assert first[1:5] == second[1:5] == ["--coordinator", first[2], "--num-hosts", "2"]
    assert [first[5:], second[5:]] == [["--host-index", "0"], ["--host-index", "1"]]


def test_a_gang_that_loses_one_ends_whole(
    slurm: Slurm, launcher: SlurmLauncher, tmp_path: Path
) -> None:
    code = "import sys, time; time.sleep(1 if sys.argv[-1] == '1' else 600); sys.exit(3)"
    (job,) = launcher.launch([task(tmp_path, code, hosts=2)])
    assert ended(job) == 3
    wait_until(lambda: not slurm.queue())


def test_a_wrong_partition_is_one_line(slurm: Slurm, tmp_path: Path) -> None:
    wrong = SlurmLauncher(tmp_path / "slurm", options={"partition": "nowhere"})
    with pytest.raises(InputError, match=r"sbatch refused: .*partition"):
        wrong.launch([task(tmp_path, "pass")])


def test_a_preempted_run_saves_and_goes_on_from_there(slurm: Slurm, tmp_path: Path) -> None:
    """Ends with the results of a sweep that nothing happened to, bit for bit."""
    folder, out = make_folder(tmp_path, extra='[slurm]\npartition = "low"\n'), tmp_path / "rough"
    assert finish(dpscale(folder, "sweep", "s.toml", "--out", "calm", "--jobs", "1"))[0] == 0
    command = ("sweep", "s.toml", "--out", str(out), "--launcher", "slurm")
    process = dpscale(folder, *command)
    wait_until(lambda: furthest_step(out) >= 10, seconds=120)
    slurm.ask(
        "sbatch",
        "--partition=high",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 5",
    )
    wait_until(lambda: not trainings(out), seconds=60)
    saved = {path.parent.name: int(path.name) for path in out.glob("runs/*/checkpoints/[0-9]*")}
    assert saved
    hold = time.monotonic() + 200
    while process.poll() is None:
        assert time.monotonic() < hold
        slurm.start_held_jobs()
        time.sleep(0.5)
    code, text = finish(process)
    assert code == 0, text
    assert losses(out) == losses(folder / "calm")
    wait_until(lambda: not slurm.queue())


def test_a_run_whose_time_is_up_saves_and_goes_on(
    slurm: Slurm, tmp_path: Path, launcher: SlurmLauncher
) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('saved').touch(), sys.exit(75)))\n"
        "if pathlib.Path('saved').exists(): sys.exit(0)\n"
        "print('first', flush=True)\n"
        "time.sleep(600)"
    )
    (job,) = launcher.launch([task(tmp_path, code)])
    wait_until(
        lambda: (tmp_path / "t.log").exists() and "first" in (tmp_path / "t.log").read_text()
    )
    (number,) = slurm.queue()
    slurm.ask("scancel", "--signal=USR2", number)  # what Slurm sends before the time is up
    wait_until(lambda: (tmp_path / "saved").exists())
    wait_until(lambda: slurm.queue().get(number) == "PENDING")
    assert job.poll() is None
    wait_until(lambda: bool(slurm.start_held_jobs()) or job.poll() is not None)
    assert ended(job) == 0


def test_ctrl_c_leaves_nothing_running_and_a_folder_that_goes_on(
    slurm: Slurm, tmp_path: Path
) -> None:
    folder, out = make_folder(tmp_path), tmp_path / "out"
    command = ("sweep", "s.toml", "--out", str(out))
    process = dpscale(folder, *command, "--launcher", "slurm")
    wait_until(lambda: furthest_step(out) >= 5, seconds=120)
    process.send_signal(signal.SIGINT)
    code, text = finish(process)
    assert code == 75, text
    assert not trainings(out)
    wait_until(lambda: not slurm.queue())
    code, text = finish(dpscale(folder, *command, "--launcher", "local", "--jobs", "1"))
    assert code == 0, text
    assert "2 finished" in text


def test_a_point_over_two_nodes_trains_as_on_one(slurm: Slurm, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert finish(dpscale(folder, "sweep", "s.toml", "--out", "one", "--jobs", "1"))[0] == 0
    make_folder(tmp_path, hosts=2)
    command = ("sweep", "s.toml", "--out", "two", "--launcher", "slurm")
    code, text = finish(dpscale(folder, *command))
    assert code == 0, text
    assert losses(folder / "two") == pytest.approx(losses(folder / "one"), rel=1e-5)
