import sys
import threading
import time
from pathlib import Path

import pytest

from dpscale.sweep.launchers import process
from dpscale.sweep.launchers.process import ProcessSpec, run_to_end, start

# Writes "asked" when it is asked to leave, and then leaves with 75, or does not.
SAVES = """
import signal, sys, time
def leave(*_):
    print("asked", flush=True)
    if sys.argv[1] == "polite":
        sys.exit(75)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
for _ in range(600): time.sleep(0.1)
"""


def spec(tmp_path: Path, code: str, *arguments: str, grace: float = 20.0) -> ProcessSpec:
    command = (sys.executable, "-S", "-c", code, *arguments)
    return ProcessSpec(command, tmp_path / "log", tmp_path, grace_seconds=grace)


def test_a_worker_gets_the_exit_code_and_the_log(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd()); sys.exit(7)"
    assert run_to_end(spec(tmp_path, code), {}) == 7
    assert (tmp_path / "log").read_text().strip() == str(tmp_path)


@pytest.mark.parametrize(
    ("manners", "grace", "left_by"), [("polite", 20.0, 75), ("stubborn", 0.3, -9)]
)
def test_a_cancelled_worker_lets_its_process_save_and_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: str, grace: float, left_by: int
) -> None:
    class Cancelled(BaseException):
        pass

    started: list[process.Process] = []

    def sleep(seconds: float) -> None:
        log = tmp_path / "log"
        if not cancelled.is_set() and log.exists() and "ready" in log.read_text():
            cancelled.set()
            raise Cancelled
        wait(0.02)

    def remember(*arguments: object) -> process.Process:
        started.append(start(*arguments))  # type: ignore[arg-type]
        return started[-1]

    cancelled, wait = threading.Event(), time.sleep
    monkeypatch.setattr(process, "start", remember)
    monkeypatch.setattr(process.time, "sleep", sleep)
    with pytest.raises(Cancelled):
        run_to_end(spec(tmp_path, SAVES, manners, grace=grace), {})
    deadline = time.monotonic() + 20
    while (ended := started[0].poll()) is None:
        assert time.monotonic() < deadline
        wait(0.02)
    assert ended.exit_code == left_by
    assert (tmp_path / "log").read_text().split() == ["ready", "asked"]


@pytest.mark.parametrize(
    ("manners", "grace", "left_by"), [("polite", 20.0, 75), ("stubborn", 0.3, -9)]
)
def test_a_worker_that_should_leave_says_how_its_process_left(
    tmp_path: Path, manners: str, grace: float, left_by: int
) -> None:
    def is_ready() -> bool:
        return "ready" in (tmp_path / "log").read_text()

    what = spec(tmp_path, SAVES, manners, grace=grace)
    assert run_to_end(what, {}, should_leave=is_ready) == left_by
    assert (tmp_path / "log").read_text().split() == ["ready", "asked"]
