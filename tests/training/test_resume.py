"""Killed and started again, a run ends to the bit as one that was never killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from digest import digest

from dpscale.config import RunConfig
from dpscale.errors import ExitCode, InputError, RunInterrupted
from dpscale.files import read_json
from dpscale.records import Status, read_metrics, read_status
from dpscale.schema import to_toml
from dpscale.training.interruption import StopRequest
from dpscale.training.loop import train

KILL_AT = Path(__file__).with_name("kill_at.py")

Finished = Callable[[str], Path]
Traces = Callable[[Path], dict[str, Any]]

# Checkpoints are due at 5, 10 and 12, metric lines at 4, 8 and 12. Each of these ends one
# process; the next one starts in the same folder. Saves are written in the background, so that
# training may have come further than the lines that are there at least.
KILLS = {
    "private": [
        ("keys drawn, config.json not written", r"os.rename:config\.json:1", []),
        ("in the first save", r"os.rename:checkpoints/5\.orbax:1", [4]),
        ("in a window, 3 steps after a checkpoint", r"open:metrics\.jsonl.*'a':2", [4]),
        ("in a later save", r"os.rename:checkpoints/10\.orbax:1", [4, 8]),
        ("receipt written, result not", r"os.rename:result\.json:1", [4, 8, 12]),
    ],
    "law-fitting": [
        ("saved, checksums not written", r"os.rename:checksums\.json:1", [4]),
        ("saved again, checksums not written", r"os.rename:checksums\.json:2", [4, 8]),
    ],
}


def start(config: RunConfig, run_dir: Path, *, at: tuple[str, str] | None = None) -> Any:
    """Starts `dpscale train`, to be hit by a signal at a moment or to run as it is."""
    file = run_dir.with_suffix(".toml")
    file.write_text(to_toml(config.to_dict()))
    head = [str(KILL_AT), *at] if at else ["-m", "dpscale.cli.main"]
    return subprocess.Popen(
        [sys.executable, *head, "train", str(file), "--out", str(run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_killed_at_many_moments_ends_the_same_to_the_bit(
    purpose: str,
    configs: dict[str, RunConfig],
    finished: Finished,
    traces: Traces,
    tmp_path: Path,
) -> None:
    # Catches: a window's sums or a counter that is not in the checkpoint, metric lines that
    # stay after the restored step, a batch or noise that depends on how often one started.
    run_dir = tmp_path / "run"
    for name, moment, lines in KILLS[purpose]:
        process = start(configs[purpose], run_dir, at=("SIGKILL", moment))
        out, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{name}: {out} {err}"
        written = [line["step"] for line in read_metrics(run_dir)]
        assert written[: len(lines)] == lines, name
        assert written == lines or "save" in name, name
        assert not (run_dir / "result.json").exists()
    process = start(configs[purpose], run_dir)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert traces(run_dir) == traces(finished(purpose))
    assert not list((run_dir / "checkpoints").glob("*tmp*")), "a killed save left its rest"


@pytest.mark.deep
@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_killed_at_random_times_ends_the_same_to_the_bit(
    purpose: str,
    configs: dict[str, RunConfig],
    finished: Finished,
    traces: Traces,
    tmp_path: Path,
) -> None:
    generator = random.Random(purpose)
    longest = 4.0
    run_dir = tmp_path / "run"
    while True:
        process = start(configs[purpose], run_dir)
        try:
            _, err = process.communicate(timeout=generator.uniform(0.3, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            longest *= 1.1  # so that it ends on a slow machine too
            continue
        assert process.returncode == 0, err
        break
    assert traces(run_dir) == traces(finished(purpose))


def test_sigterm_saves_writes_a_receipt_for_the_steps_taken_and_goes_on(
    configs: dict[str, RunConfig], finished: Finished, traces: Traces, tmp_path: Path
) -> None:
    # Catches: a receipt for the planned iterations, a stop that loses steps or claims to be an end.
    config, run_dir = configs["private"], tmp_path / "run"
    process = start(config, run_dir, at=("SIGTERM", r"open:metrics\.jsonl.*'a':1"))
    out, err = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED, (out, err)
    assert "interrupted after 5 of 12 iterations" in err
    assert "Traceback" not in err
    receipt, status = read_json(run_dir / "receipt.json"), read_status(run_dir)
    assert (receipt["iterations"], receipt["planned_iterations"]) == (5, 12)
    whole = read_json(finished("private") / "receipt.json")
    assert 0 < receipt["epsilon"] < whole["epsilon"]
    assert status is not None
    assert (status.status, status.step) == (Status.INTERRUPTED, 5)
    assert not (run_dir / "result.json").exists()
    # Killed later on, it must not keep a receipt for fewer steps than it has taken by then.
    process = start(config, run_dir, at=("SIGKILL", r"os.rename:checkpoints/10\.orbax:1"))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run_dir / "receipt.json").exists()
    train(config, run_dir)
    assert traces(run_dir) == traces(finished("private"))


@pytest.mark.parametrize("stop_after", [4, 8])
def test_stopping_between_checkpoints_changes_nothing(
    stop_after: int,
    configs: dict[str, RunConfig],
    finished: Finished,
    traces: Traces,
    tmp_path: Path,
) -> None:
    # Catches: a checkpoint off the schedule that shifts the windows or the later checkpoints.
    stop = StopRequest()

    def observe(line: dict[str, Any]) -> None:
        stop.is_set = line["step"] == stop_after

    with pytest.raises(RunInterrupted, match=f"after {stop_after + 1} of 12"):
        train(configs["law-fitting"], tmp_path, stop=stop, observe=observe)
    assert not (tmp_path / "receipt.json").exists()
    train(configs["law-fitting"], tmp_path)
    assert traces(tmp_path) == traces(finished("law-fitting"))


def test_a_stop_that_comes_while_a_step_is_counted_does_not_claim_a_save(
    configs: dict[str, RunConfig], tmp_path: Path
) -> None:
    # Catches: asking twice, before and after the save, whether to stop: a signal in between
    # would leave with "its state saved" and nothing saved.
    class AskedOften(StopRequest):
        asked = 0

        @property
        def is_set(self) -> bool:
            self.asked += 1
            return self.asked >= 2  # from the second time on

        @is_set.setter
        def is_set(self, value: bool) -> None: ...

    with pytest.raises(RunInterrupted) as caught:
        train(configs["law-fitting"], tmp_path, stop=AskedOften())
    (step,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"after {step} of 12" in str(caught.value)


@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_a_finished_run_is_left_as_it_is(
    purpose: str, configs: dict[str, RunConfig], finished: Finished
) -> None:
    run_dir = finished(purpose)
    files = {
        path: (path.stat().st_mtime_ns, digest(path.read_bytes()))
        for path in run_dir.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    started = time.monotonic()
    result = train(configs[purpose], run_dir)
    assert result.to_dict() == read_json(run_dir / "result.json")
    assert {path: (path.stat().st_mtime_ns, digest(path.read_bytes())) for path in files} == files
    assert {path for path in run_dir.rglob("*") if path.is_file()} - {run_dir / ".lock"} == set(
        files
    )
    assert time.monotonic() - started < 30


def spoil_by_deleting(folder: Path) -> None:
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.unlink()


def spoil_by_cutting(folder: Path) -> None:
    for path in array_files(folder):
        os.truncate(path, path.stat().st_size // 2)


def spoil_one_byte(folder: Path) -> None:
    path = max(array_files(folder), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def array_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "state").rglob("d/*") if path.is_file()]


SPOILERS = [spoil_by_deleting, spoil_by_cutting, spoil_one_byte]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_damaged_newest_checkpoint_falls_back_and_ends_the_same(
    spoil: Callable[[Path], None],
    configs: dict[str, RunConfig],
    finished: Finished,
    copied: Finished,
    traces: Traces,
) -> None:
    # Catches: going on from changed parameters, or from a state of the wrong step.
    run_dir = copied("private")
    for name in ("result.json", "receipt.json"):
        (run_dir / name).unlink()
    spoil(run_dir / "checkpoints" / "12")
    train(configs["private"], run_dir)
    assert traces(run_dir) == traces(finished("private"))


def test_when_all_checkpoints_are_damaged_it_says_so_and_touches_none(
    configs: dict[str, RunConfig], copied: Finished
) -> None:
    # Catches: starting over without a word, or deleting what might still be repaired.
    run_dir = copied("law-fitting")
    (run_dir / "result.json").unlink()
    for step in ("10", "12"):
        spoil_one_byte(run_dir / "checkpoints" / step)
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of the checkpoints \[12, 10\] can be read"):
            train(configs["law-fitting"], run_dir)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["10", "12"]
    status = read_status(run_dir)
    assert status is not None
    assert status.status is Status.FAILED
    assert "checkpoints" in json.dumps(status.error)
