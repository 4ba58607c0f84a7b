"""Quickstart's verdict says so plainly when something does not hold, and stages stop on errors."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dpscale.cli import quickstart
from dpscale.cli.main import main
from dpscale.cli.quickstart import Verdict
from dpscale.errors import ExitCode

CLEAN = Verdict(
    predicted_loss=4.0,
    predicted_loss_interval=(3.8, 4.2),
    actual_loss=4.1,
    unigram_entropy=5.7,
    epsilon=7.99,
    target_epsilon=8.0,
)


def test_a_clean_verdict() -> None:
    assert all(CLEAN.checks.values())
    assert CLEAN.relative_error == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actual_loss": 4.21, "predicted_loss_interval": (3.0, 5.0)}, "within 5%"),
        ({"predicted_loss_interval": (3.8, 4.09)}, "interval"),
        ({"unigram_entropy": 4.0}, "unigram"),
        ({"epsilon": 8.001}, "epsilon"),
    ],
)
def test_what_does_not_hold_is_named(changes: dict[str, Any], words: str) -> None:
    found = dataclasses.replace(CLEAN, **changes)
    failed = [check for check, holds in found.checks.items() if not holds]
    assert len(failed) == 1
    assert words in failed[0]


class Stages:
    """Stands in for the commands: notes them, and ends one with an exit code."""

    def __init__(self, verb: str = "", code: int = 0) -> None:
        self.verb, self.code, self.ran = verb, code, []

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        verb = command[3]
        self.ran.append(verb)
        return subprocess.CompletedProcess(command, self.code if verb == self.verb else 0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs quickstart over stand-in stages and a given verdict."""

    def run(stages: Stages, found: Verdict = CLEAN) -> int:
        monkeypatch.setattr(quickstart.subprocess, "run", stages)
        monkeypatch.setattr(quickstart, "verdict", lambda out: found)
        return main(["quickstart", "--out", str(tmp_path / "q")])

    return run


def test_all_stages_run_in_order(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages()
    assert run(stages) == ExitCode.OK
    assert stages.ran == ["prepare", "sweep", "fit", "recommend", "train", "generate"]
    printed = capsys.readouterr().out
    assert "$ dpscale recommend --eps 8" in printed
    assert "NO " not in printed


def test_a_missed_prediction_is_not_hidden(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    missed = dataclasses.replace(CLEAN, actual_loss=4.9)
    assert run(Stages(), missed) == ExitCode.FAILED_POINTS
    printed = capsys.readouterr().out
    assert "NO   the prediction is within 5%" in printed
    assert "+22.5%" in printed


def test_failed_points_of_the_sweep_do_not_stop_it(run: Any) -> None:
    stages = Stages("sweep", ExitCode.FAILED_POINTS)
    assert run(stages) == ExitCode.OK
    assert stages.ran[-1] == "generate"


def test_a_failed_stage_stops_it(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages("train", ExitCode.FAILED_POINTS)
    assert run(stages) == ExitCode.USAGE
    assert stages.ran[-1] == "train"
    assert "dpscale quickstart: train it privately: stopped" in capsys.readouterr().err


def test_an_interrupted_stage_interrupts_it(run: Any) -> None:
    assert run(Stages("sweep", ExitCode.INTERRUPTED)) == ExitCode.INTERRUPTED
