"""The runner, with real processes of a fake train script, and with a launcher made of paper."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpscale.config import RunConfig
from dpscale.errors import RunInterrupted
from dpscale.records import Status
from dpscale.schema import read_toml
from dpscale.sweep.launchers.local import LocalLauncher
from dpscale.sweep.launchers.protocol import Ended, EngineLost, Task
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.runner import SweepRun, SweepSettings, failure_reason
from dpscale.sweep.survey import RunState

FAST = SweepSettings(retries=1, retry_seconds=0.0, poll_seconds=0.01, grace_seconds=0.3)


def sweep_run(fake: Any, *, jobs: int = 2, **changes: Any) -> SweepRun:
    return SweepRun(
        **{
            "points": fake.points,
            "folder": SweepFolder(fake.root / "out"),
            "launcher": LocalLauncher(jobs, environment={}),
            "make_command": fake.command,
            "settings": FAST,
            **changes,
        }
    )


def statuses(states: list[RunState]) -> list[str]:
    return [str(state.status) for state in states]


def test_every_point_is_run_from_its_own_config(fake: Any, points: list[RunConfig]) -> None:
    run = sweep_run(fake)
    assert statuses(run.run()) == ["finished"] * 3
    assert sorted(fake.started_runs()) == sorted(point.run_id for point in points)
    for point in points:
        path = run.folder.config_path(point.run_id)
        assert RunConfig.from_dict(read_toml(path), where="t") == point


def test_a_repeat_starts_nothing_that_has_ended(fake: Any, points: list[RunConfig]) -> None:
    fake.plan({points[0].run_id: "diverge"})
    sweep_run(fake).run()
    assert statuses(sweep_run(fake).run()) == ["diverged", "finished", "finished"]
    assert len(fake.starts()) == 3


@pytest.mark.parametrize(
    ("behaviour", "starts", "error"),
    [
        ("crash", 2, "exit code 1 without a result: ValueError: the disk is full"),
        ("refuse", 1, "exit code 2 without a result: dpscale train: private: refused"),
        ("die", 2, "killed by signal 9: printed nothing"),
        ("exit 0 without result", 2, "exit code 0 without a result: printed nothing"),
    ],
)
def test_a_failed_point_says_why_and_the_others_go_on(
    fake: Any, points: list[RunConfig], behaviour: str, starts: int, error: str
) -> None:
    fake.plan({points[0].run_id: behaviour})
    run = sweep_run(fake)
    states = run.run()
    assert statuses(states) == ["failed", "finished", "finished"]
    assert states[0].error == error
    assert fake.started_runs().count(points[0].run_id) == starts
    assert run.folder.read_failures() == {points[0].run_id: error}


def test_the_reason_is_the_last_try_s_and_its_own_word_before_what_libraries_print(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    log.write_text("dpscale train: the disk is full\n")
    start = log.stat().st_size
    assert failure_reason(Ended(1), log, start=start) == (
        "exit code 1 without a result: printed nothing"
    )
    with log.open("a") as file:
        file.write("loading\ndpscale train: c.toml: no such file.\nException ignored in: ...\n\n")
    assert failure_reason(Ended(2), log, start=start).endswith("train: c.toml: no such file.")
    assert failure_reason(Ended(2), tmp_path / "none").endswith("printed nothing")


def test_a_point_that_failed_once_is_tried_again(fake: Any, points: list[RunConfig]) -> None:
    fake.plan({points[0].run_id: "crash once"})
    assert statuses(sweep_run(fake).run()) == ["finished"] * 3


def test_without_retries_the_next_sweep_tries_again(fake: Any, points: list[RunConfig]) -> None:
    fake.plan({points[0].run_id: "crash once"})
    settings = SweepSettings(retries=0, poll_seconds=0.01)
    assert statuses(sweep_run(fake, settings=settings).run())[0] == "failed"
    again = sweep_run(fake, settings=settings)
    assert statuses(again.run()) == ["finished"] * 3
    assert again.folder.read_failures() == {}


def test_a_stop_lets_runs_save_and_a_repeat_goes_on(fake: Any, points: list[RunConfig]) -> None:
    fake.plan(dict.fromkeys((point.run_id for point in points[:2]), "hang once"))
    seen: list[list[RunState]] = []
    run = sweep_run(
        fake,
        observe=seen.append,
        settings=SweepSettings(poll_seconds=0.01, grace_seconds=20),
        stop_requests=lambda: int(bool(seen) and sum(s.step > 0 for s in seen[-1]) == 2),
    )
    with pytest.raises(RunInterrupted):
        run.run()
    written = [path.read_text() for path in run.folder.root.glob("runs/*/status.json")]
    assert [json.loads(text)["status"] for text in written] == ["interrupted"] * 2
    assert statuses(sweep_run(fake).run()) == ["finished"] * 3


def test_a_run_that_ignores_the_stop_is_killed_after_the_grace(
    fake: Any, points: list[RunConfig]
) -> None:
    fake.plan(dict.fromkeys((point.run_id for point in points), "stubborn"))
    seen: list[list[RunState]] = []
    run = sweep_run(fake, observe=seen.append, stop_requests=lambda: int(_two_train(seen)))
    before = time.monotonic()
    with pytest.raises(RunInterrupted):
        run.run()
    assert time.monotonic() - before < 20
    assert not any(_alive(start["pid"]) for start in fake.starts())


def test_a_second_request_kills_without_grace(fake: Any, points: list[RunConfig]) -> None:
    fake.plan(dict.fromkeys((point.run_id for point in points), "stubborn"))
    seen: list[list[RunState]] = []
    asked = 0

    def requests() -> int:
        nonlocal asked
        asked += _two_train(seen)
        return asked

    settings = SweepSettings(poll_seconds=0.01, grace_seconds=1000)
    before = time.monotonic()
    with pytest.raises(RunInterrupted):
        sweep_run(fake, observe=seen.append, stop_requests=requests, settings=settings).run()
    assert time.monotonic() - before < 20
    assert not any(_alive(start["pid"]) for start in fake.starts())


class PaperJob:
    """Ends when the test says so."""

    has_started = True

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> Ended | None:
        return None if self.code is None else Ended(self.code)

    def terminate(self) -> None:
        self.code = -15

    def kill(self) -> None:
        self.code = -9


class PaperLauncher:
    """Two slots; every job fails at its third poll of the clock."""

    def __init__(self) -> None:
        self.jobs: list[PaperJob] = []
        self.most_at_once = 0

    @property
    def running(self) -> int:
        return sum(job.code is None for job in self.jobs)

    @property
    def has_room(self) -> bool:
        return self.running < 2

    def launch(self, tasks: Sequence[Task]) -> list[PaperJob]:
        new = [PaperJob() for _ in tasks[: 2 - self.running]]
        self.jobs += new
        self.most_at_once = max(self.most_at_once, self.running)
        return new

    def close(self) -> None:
        pass


class PaperClock:
    """Each sleep ends the oldest running job with exit code 1."""

    def __init__(self, launcher: PaperLauncher) -> None:
        self.time = 0.0
        self.launcher = launcher

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        for job in self.launcher.jobs:
            if job.code is None:
                job.code = 1
                return


def test_no_more_runs_at_once_than_slots_and_no_more_starts_than_retries(
    tmp_path: Path, points: list[RunConfig]
) -> None:
    launcher = PaperLauncher()
    run = SweepRun(
        points=points,
        folder=SweepFolder(tmp_path),
        launcher=launcher,
        make_command=lambda config, run_dir: ["train"],
        settings=SweepSettings(retries=2),
        clock=PaperClock(launcher),
    )
    states = run.run()
    assert {state.status for state in states} == {Status.FAILED}
    assert launcher.most_at_once == 2
    assert len(launcher.jobs) == len(points) * 3


@dataclass
class ScriptedLauncher:
    """Starts one task at a time; each start does to the run's folder what its turn in `acts` says.

    `acts` are called with the number of the start and the run folder, and return how it left.
    """

    folder: SweepFolder
    acts: Callable[[int, Path], Ended]
    starts: list[Task] = field(default_factory=list)
    has_room: bool = True

    def launch(self, tasks: Sequence[Task]) -> list[PaperJob]:
        self.starts.append(tasks[0])
        job = PaperJob()
        ended = self.acts(len(self.starts), self.folder.run_dir(tasks[0].name))
        job.poll = lambda: ended  # type: ignore[method-assign]
        return [job]

    def close(self) -> None:
        pass


class StillClock:
    """Counts the seconds that are slept; its wall clock jumps by hours at each look, both ways."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.looks = 0

    def now(self) -> float:
        self.looks += 1
        return 1e9 + 3600.0 * (-1) ** self.looks * self.looks

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def save(run_dir: Path, step: int) -> None:
    path = run_dir / "checkpoints" / str(step)
    path.mkdir(parents=True)
    (path / "checksums.json").write_text("{}")


def scripted(
    tmp_path: Path, point: RunConfig, acts: Callable[[int, Path], Ended], *, retries: int = 2
) -> tuple[list[RunState], ScriptedLauncher, StillClock]:
    folder, clock = SweepFolder(tmp_path / "out"), StillClock()
    launcher = ScriptedLauncher(folder, acts)
    run = SweepRun(
        points=[point],
        folder=folder,
        launcher=launcher,
        make_command=lambda config, run_dir: ["train"],
        settings=SweepSettings(retries=retries),
        clock=clock,
    )
    return run.run(), launcher, clock


LEFT = [Ended(1), Ended(-9), Ended(75), Ended(None, "its node is gone")]


@pytest.mark.parametrize("ended", LEFT)
def test_starts_that_save_nothing_new_are_counted(
    tmp_path: Path, points: list[RunConfig], ended: Ended
) -> None:
    states, launcher, clock = scripted(tmp_path, points[0], lambda start, run_dir: ended)
    assert statuses(states) == ["failed"]
    assert len(launcher.starts) == 3
    assert clock.slept == pytest.approx(5.0, abs=1.0)  # at once, then after five seconds


@pytest.mark.parametrize("ended", LEFT)
def test_a_start_that_saved_something_new_is_the_first_of_a_new_count(
    tmp_path: Path, points: list[RunConfig], ended: Ended
) -> None:
    # A point on machines that are taken away all the time comes to its end all the same.
    def acts(start: int, run_dir: Path) -> Ended:
        if start % 2 and start < 20:
            save(run_dir, step=start)
        return ended

    states, launcher, _ = scripted(tmp_path, points[0], acts, retries=1)
    assert statuses(states) == ["failed"]
    assert len(launcher.starts) == 21  # 19 saved for the last time; 20 and 21 did not


def test_a_checkpoint_that_was_not_finished_is_no_progress(
    tmp_path: Path, points: list[RunConfig]
) -> None:
    def acts(start: int, run_dir: Path) -> Ended:
        (run_dir / "checkpoints" / str(start)).mkdir(parents=True)
        return Ended(-9)

    _, launcher, _ = scripted(tmp_path, points[0], acts)
    assert len(launcher.starts) == 3


def test_a_lost_machine_is_named_where_it_was_the_end(
    tmp_path: Path, points: list[RunConfig]
) -> None:
    lost = Ended(None, "its node is gone")
    (state,), _, _ = scripted(tmp_path, points[0], lambda start, run_dir: lost)
    assert state.error == "lost (its node is gone): printed nothing"


def test_a_clock_that_jumps_changes_nothing(fake: Any, points: list[RunConfig]) -> None:
    class JumpingClock(StillClock):
        def monotonic(self) -> float:
            return time.monotonic()

        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    fake.plan({points[0].run_id: "crash once"})
    clock = JumpingClock()
    assert statuses(sweep_run(fake, clock=clock).run()) == ["finished"] * 3
    assert clock.looks > 3
    assert len(fake.starts()) == 4


def test_a_stop_gives_its_grace_also_where_the_clock_jumps(
    fake: Any, points: list[RunConfig]
) -> None:
    class JumpingClock(StillClock):
        def monotonic(self) -> float:
            return time.monotonic()

        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    fake.plan(dict.fromkeys((point.run_id for point in points[:2]), "hang once"))
    seen: list[list[RunState]] = []
    run = sweep_run(
        fake,
        clock=JumpingClock(),
        observe=seen.append,
        settings=SweepSettings(poll_seconds=0.01, grace_seconds=20),
        stop_requests=lambda: int(_two_train(seen)),
    )
    with pytest.raises(RunInterrupted):
        run.run()
    written = [path.read_text() for path in run.folder.root.glob("runs/*/status.json")]
    assert [json.loads(text)["status"] for text in written] == ["interrupted"] * 2


def test_an_engine_that_is_gone_is_not_asked_again_and_the_folder_goes_on(
    fake: Any, points: list[RunConfig]
) -> None:
    class LostJob(PaperJob):
        def poll(self) -> Ended | None:
            raise EngineLost("the head of the cluster is gone.")

    class LostLauncher(PaperLauncher):
        def launch(self, tasks: Sequence[Task]) -> list[PaperJob]:
            return [LostJob() for _ in tasks[:2]]

    with pytest.raises(EngineLost):
        sweep_run(fake, launcher=LostLauncher()).run()
    assert statuses(sweep_run(fake).run()) == ["finished"] * 3


def test_a_point_in_the_queue_of_an_engine_is_not_running(
    fake: Any, points: list[RunConfig]
) -> None:
    class QueueingLauncher(PaperLauncher):
        def launch(self, tasks: Sequence[Task]) -> list[PaperJob]:
            new = super().launch(tasks)
            for job in new:
                job.has_started = False
            return new

    launcher, seen = QueueingLauncher(), []
    run = sweep_run(
        fake,
        launcher=launcher,
        clock=PaperClock(launcher),
        observe=lambda s: seen.append(statuses(s)),
    )
    run.run()
    assert not any("running" in states for states in seen)


def _two_train(seen: list[list[RunState]]) -> bool:
    return bool(seen) and sum(state.step > 0 for state in seen[-1]) == 2


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
