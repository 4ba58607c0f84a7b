"""Slurm's queue, with its commands made of paper."""

import subprocess
from collections.abc import Sequence

import pytest

from dpscale.sweep.launchers.protocol import EngineLost
from dpscale.sweep.launchers.slurm_queue import LOOK_SECONDS, SILENT_SECONDS, SlurmQueue


class Slurm:
    """Answers squeue, or does not."""

    def __init__(self) -> None:
        self.commands: list[Sequence[str]] = []
        self.answer: str | Exception = "7|RUNNING\n8_1|PENDING\n"
        self.now = 50.0

    def run(self, command: Sequence[str]) -> str:
        self.commands.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def queue(self) -> SlurmQueue:
        return SlurmQueue(self.run, lambda: self.now)


def test_one_call_serves_all_jobs_for_a_while() -> None:
    slurm = Slurm()
    queue = slurm.queue()
    assert queue.look() == ({"7": "RUNNING", "8_1": "PENDING"}, 50.0)
    slurm.answer = ""
    assert queue.look()[0] == {"7": "RUNNING", "8_1": "PENDING"}
    assert len(slurm.commands) == 1
    slurm.now += LOOK_SECONDS
    assert queue.look() == ({}, slurm.now)


@pytest.mark.parametrize(
    "failure",
    [
        subprocess.CalledProcessError(1, "squeue", stderr="slurm_load_jobs error:\n Unable\n"),
        subprocess.TimeoutExpired("squeue", 60),
        FileNotFoundError("squeue"),
    ],
)
def test_slurm_may_be_silent_for_a_while_and_not_for_ever(failure: Exception) -> None:
    slurm = Slurm()
    queue = slurm.queue()
    queue.look()
    slurm.answer = failure
    slurm.now += SILENT_SECONDS
    assert queue.look() == (
        {"7": "RUNNING", "8_1": "PENDING"},
        50.0,
    )  # what was seen last, and when
    slurm.now += LOOK_SECONDS
    with pytest.raises(EngineLost, match="has not answered for 121 seconds"):
        queue.look()
    slurm.answer = "7|RUNNING\n"
    slurm.now += LOOK_SECONDS
    assert queue.look() == ({"7": "RUNNING"}, slurm.now)


def test_a_slurm_that_never_answered_is_no_slurm() -> None:
    slurm = Slurm()
    slurm.answer = FileNotFoundError("squeue")
    queue = slurm.queue()
    assert queue.look() == ({}, -1.0)
    slurm.now += SILENT_SECONDS + LOOK_SECONDS
    with pytest.raises(EngineLost):
        queue.look()


def test_a_signal_is_for_those_that_run_and_takes_out_those_that_wait() -> None:
    slurm = Slurm()
    slurm.queue().signal(["7", "8_1"], "TERM")
    assert slurm.commands == [
        ("scancel", "--quiet", "--state=PENDING", "7", "8_1"),
        ("scancel", "--quiet", "--signal=TERM", "--state=RUNNING", "7", "8_1"),
    ]
    slurm.commands.clear()
    slurm.queue().signal([], "TERM")
    slurm.queue().cancel([])
    assert slurm.commands == []


def test_a_job_that_is_gone_already_can_be_cancelled() -> None:
    slurm = Slurm()
    slurm.answer = subprocess.CalledProcessError(1, "scancel", stderr="Invalid job id")
    slurm.queue().cancel(["7"])
