"""`dpscale status`: what is done, running, failed, and how long is left."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode
from dpscale.records import Status

if TYPE_CHECKING:
    from dpscale.sweep.survey import RunState


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Show where the runs of a folder stand: one run, a sweep, or a folder of run folders.

    A run whose process is gone without a result is shown as interrupted: the command that
    started it continues it. The train loss of a private run is not private.
    """

    folder: Annotated[BucketPath, tyro.conf.Positional]
    """The folder of a run or of a sweep."""
    watch: bool = False
    """Look again every few seconds until all runs have ended; Ctrl-C leaves them alone."""


WATCH_SECONDS = 2.0


def run(options: Options, output: Output) -> ExitCode:
    """Prints the table of runs; reading changes nothing."""
    from dpscale.sweep.progress import summary_line
    from dpscale.sweep.survey import seconds_left, survey

    states = (
        _watch(options.folder, output) if options.watch else survey(options.folder, now=time.time())
    )
    output.table(_COLUMNS, [_row(state) for state in states])
    for state in states:
        if state.error:
            output.say(f"{state.run_id}: {state.error}")
    if len(states) > 1:
        output.say(summary_line(states))
    counts = Counter(state.status for state in states)
    output.result(
        {
            "counts": {str(status): counts[status] for status in Status},
            "seconds_left": seconds_left(states),
            "runs": [_plain(state) for state in states],
        }
    )
    return ExitCode.OK


def _watch(folder: Path, output: Output) -> "list[RunState]":
    """Shows the runs until all have ended, or the one who watches has seen enough."""
    from dpscale.sweep.progress import SweepProgress
    from dpscale.sweep.survey import survey

    states = survey(folder, now=time.time())
    with SweepProgress(output.progress_console) as progress, suppress(KeyboardInterrupt):
        while not all(state.ended for state in states):
            progress.show(states)
            time.sleep(WATCH_SECONDS)
            states = survey(folder, now=time.time())
    return states


_COLUMNS = ("run", "status", "step", "train loss", "epsilon", "left")


def _row(state: "RunState") -> tuple[str, ...]:
    from dpscale.sweep.progress import duration

    return (
        state.run_id,
        str(state.status),
        f"{state.step}/{'?' if state.iterations is None else state.iterations}",
        "" if state.train_loss is None else f"{state.train_loss:.3f}",
        "" if state.epsilon is None else f"{state.epsilon:.3g}",
        "" if state.seconds_left is None else duration(state.seconds_left),
    )


def _plain(state: "RunState") -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "status": str(state.status),
        "step": state.step,
        "iterations": state.iterations,
        "train_loss": state.train_loss,
        "epsilon": state.epsilon,
        "wall_seconds": state.wall_seconds,
        "seconds_left": state.seconds_left,
        "error": state.error,
    }
