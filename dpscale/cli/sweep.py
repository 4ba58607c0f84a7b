"""`dpscale sweep`: runs a grid of training runs and collects their results in one table."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode, InputError
from dpscale.records import Status

if TYPE_CHECKING:
    from dpscale.sweep.survey import RunState


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Run every point of a sweep file as `dpscale train`, and write one results table.

    A sweep file holds [base], a run config, and one or more [[grid]] tables of axes. Repeat
    the command to go on after an interruption: finished points are skipped, interrupted ones
    resume, failed ones are tried again. A point that fails does not stop the others.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    """The sweep file (TOML)."""
    out: Path
    """Folder for configs, runs, logs and the results table."""
    jobs: int | None = None
    """Runs at a time; by default one for each core, and each pinned to its own. Use 1 where
    runs share one accelerator."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Replace a setting of the base, as in --set training.iterations=100; may be repeated."""
    retries: int = 1
    """How often a run that died without a result is started again."""


def run(options: Options, output: Output) -> ExitCode:
    """Runs the sweep; `FAILED_POINTS` where any point did not finish."""
    from dpscale.sweep.launcher import LocalLauncher, available_cores
    from dpscale.sweep.layout import SweepFolder, locked
    from dpscale.sweep.progress import SweepProgress
    from dpscale.sweep.runner import SweepRun, SweepSettings, require_data
    from dpscale.sweep.spec import read_sweep
    from dpscale.sweep.table import write_table

    jobs = len(available_cores()) if options.jobs is None else options.jobs
    if jobs < 1:
        raise InputError("--jobs", f"expected at least 1, found {jobs}.")
    if options.retries < 0:
        raise InputError("--retries", f"expected at least 0, found {options.retries}.")
    sweep = read_sweep(options.sweep, options.set)
    require_data(sweep.data_paths)
    folder = SweepFolder(options.out)
    output.say(f"{len(sweep.points)} runs, {jobs} at a time, in {folder.root}")
    watching = SweepProgress(output.progress_console, workers=jobs)
    with locked(folder), _stop_signals() as requests, watching as progress:
        states = SweepRun(
            points=sweep.points,
            folder=folder,
            launcher=LocalLauncher(jobs, environment=os.environ),
            make_command=train_command,
            settings=SweepSettings(retries=options.retries),
            stop_requests=lambda: len(requests),
            observe=progress.show,
        ).run()
        write_table(folder, sweep.points)
    return _report(states, table=folder.table_path, output=output)


def train_command(config: Path, run_dir: Path) -> list[str]:
    """What a point runs."""
    verb = [sys.executable, "-m", "dpscale.cli.main", "train"]
    return [*verb, str(config), "--out", str(run_dir)]


def _report(states: "list[RunState]", *, table: Path, output: Output) -> ExitCode:
    counts = Counter(state.status for state in states)
    failures = [state for state in states if state.status is not Status.FINISHED]
    for state in failures:
        output.say(f"{state.status}: {state.run_id}: {state.error}")
    output.say(
        f"{counts[Status.FINISHED]} finished, {counts[Status.DIVERGED]} diverged, "
        f"{counts[Status.FAILED]} failed; results in {table}"
    )
    output.result(
        {
            "points": len(states),
            "finished": counts[Status.FINISHED],
            "diverged": counts[Status.DIVERGED],
            "failed": counts[Status.FAILED],
            "table": str(table),
            "failures": [
                {"run_id": state.run_id, "status": str(state.status), "error": state.error}
                for state in failures
            ],
        }
    )
    return ExitCode.FAILED_POINTS if failures else ExitCode.OK


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects the signals that ask to stop, in place of dying of them at any line."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, frame: received.append(n)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
