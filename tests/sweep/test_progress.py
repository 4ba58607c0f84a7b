import io

from rich.console import Console

from dpscale.records import Status
from dpscale.sweep.progress import SweepProgress, summary_line
from dpscale.sweep.survey import RunState


def state(status: Status, step: int, name: str = "r") -> RunState:
    return RunState(name, status, step, 10, 1.0 * step, train_loss=4.25, planned_flops=100.0)


def test_the_summary_counts_done_running_and_failed_runs() -> None:
    states = [
        state(Status.FINISHED, 10),
        state(Status.DIVERGED, 10),
        state(Status.FAILED, 10),
        state(Status.RUNNING, 5),
        state(Status.WAITING, 0),
    ]
    assert summary_line(states) == "1 of 5 runs done, 1 running, 2 failed, about 15 s left"


def test_a_terminal_sees_the_step_of_each_running_run() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with SweepProgress(console) as progress:
        progress.show([state(Status.RUNNING, 7, "the-run"), state(Status.WAITING, 0, "another")])
    assert "the-run" in text.getvalue()
    assert "7/10" in text.getvalue()
    assert "4.250" in text.getvalue()
    assert "another" not in text.getvalue()


def test_a_log_file_gets_one_line_for_each_ended_run_not_one_for_each_look() -> None:
    text = io.StringIO()
    with SweepProgress(Console(file=text, width=40)) as progress:
        for step in (1, 2, 3):
            progress.show([state(Status.RUNNING, step)])
        progress.show([state(Status.FINISHED, 10)])
    assert text.getvalue().splitlines() == [
        "0 of 1 runs done, 1 running, about 9 s left",
        "1 of 1 runs done, 0 running",
    ]
