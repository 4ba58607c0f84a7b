"""`dpscale sweep`: runs a grid of training runs and collects their results in one table."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError
from dpscale.paths import is_on_bucket
from dpscale.records import Status
from dpscale.runtime import available_cores

if TYPE_CHECKING:
    from dpscale.sweep.launchers.protocol import Launcher
    from dpscale.sweep.runner import SweepSettings
    from dpscale.sweep.spec import Sweep
    from dpscale.sweep.survey import RunState

LauncherName = Literal["local", "ray", "slurm"]


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Run every point of a sweep file as `dpscale train`, and write one results table.

    A sweep file holds [base], a run config, and one or more [[grid]] tables of axes. Repeat
    the command to go on after an interruption, with another --launcher if you like: finished
    points are skipped, interrupted ones resume, failed ones are tried again. A point that fails
    does not stop the others.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    """The sweep file (TOML)."""
    out: BucketPath
    """Folder for configs, runs, logs and the results table; also on a bucket (gs://)."""
    launcher: LauncherName = "local"
    """What runs the points: this computer, a Ray cluster (RAY_ADDRESS; without it Ray on this
    computer), or Slurm. The sweep file's [resources] say what a point needs."""
    jobs: int | None = None
    """Runs at a time on this computer; by default as many as its cores allow, each pinned to its
    own. Use 1 where runs share one accelerator."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Replace a setting of the base, as in --set training.iterations=100; may be repeated."""
    keys: Path | None = None
    """Private points on a bucket: a local folder for their secret keys, as for `train`."""
    dry_run: bool = False
    """Print what would run, in which order, and what it would cost; nothing is written."""
    retries: int = 3
    """How often a run that left without a result, and without having saved anything new, is
    started again."""


def run(options: Options, output: Output) -> ExitCode:
    """Runs the sweep; `FAILED_POINTS` where any point did not finish."""
    from dpscale.sweep.layout import SweepFolder, locked
    from dpscale.sweep.progress import SweepProgress
    from dpscale.sweep.runner import SweepRun, require_data
    from dpscale.sweep.spec import read_sweep
    from dpscale.sweep.table import write_table

    if options.retries < 0:
        raise InputError("--retries", f"expected at least 0, found {options.retries}.")
    sweep = read_sweep(options.sweep, options.set)
    folder = SweepFolder(options.out)
    if options.dry_run:
        return _print_plan(options, sweep, output)
    require_data(sweep.data_paths)
    _check_jobs(options, sweep)
    # The lock first: an engine may have to stop what a sweep that was killed has left behind.
    with locked(folder), closing(_launcher(options, sweep, output)) as launcher:
        watching = SweepProgress(output.progress_console)
        with _stop_signals() as requests, watching as progress:
            states = SweepRun(
                points=sweep.points,
                folder=folder,
                launcher=launcher,
                make_command=partial(train_command, keys=options.keys),
                settings=sweep_settings(options),
                resources_of=sweep.resources_of,
                stop_requests=lambda: len(requests),
                observe=progress.show,
            ).run()
        write_table(folder, sweep.points)
    return _report(states, table=folder.table_path, output=output)


def _print_plan(options: Options, sweep: "Sweep", output: Output) -> ExitCode:
    import time

    from dpscale.sweep.device_hours import SHARE_OF_PEAK, device_hours
    from dpscale.sweep.layout import SweepFolder
    from dpscale.sweep.plan import plan_sweep

    plan = plan_sweep(sweep, SweepFolder(options.out), now=time.time())
    rows = [
        (str(number), point.state.run_id, point.needs, f"{point.flops:.3g}")
        for number, point in enumerate(plan.points, start=1)
    ]
    output.table(("order", "run", "needs", "FLOPs"), rows)
    output.say(f"{len(rows)} runs to do, {plan.num_ended} have ended, {plan.flops:.3g} FLOPs")
    hours = device_hours(plan.flops)
    output.table(("one device of kind", "hours"), [(k, f"{v:.3g}") for k, v in hours.items()])
    output.say(
        f"accelerators at {SHARE_OF_PEAK:.0%} of their bfloat16 peak: small models reach less"
    )
    packing = {}
    if options.launcher == "local":
        jobs = _local_slots(options, sweep)[0]
        packing = {"jobs": jobs, "stretch": plan.stretch(jobs)}
        output.say(f"{jobs} at a time: {plan.stretch(jobs):.3f} of the least possible wall time")
    output.result(
        {
            "order": [point.state.run_id for point in plan.points],
            "flops": [point.flops for point in plan.points],
            "ended": plan.num_ended,
            "total_flops": plan.flops,
            "device_hours": hours,
            **packing,
        }
    )
    return ExitCode.OK


def sweep_settings(options: Options) -> "SweepSettings":
    """A bucket is asked less often than a disk."""
    from dpscale.sweep.runner import SweepSettings

    if is_on_bucket(options.out):
        return SweepSettings(retries=options.retries, poll_seconds=2.0, retry_seconds=15.0)
    return SweepSettings(retries=options.retries)


def train_command(config: Path, run_dir: Path, *, keys: Path | None = None) -> list[str]:
    """What a point runs, on whichever machine."""
    from dpscale.sweep.launchers.protocol import PYTHON

    verb = [PYTHON, "-m", "dpscale.cli.main", "train"]
    place = [] if keys is None else ["--keys", str(keys)]
    return [*verb, str(config), "--out", str(run_dir), *place]


def _check_jobs(options: Options, sweep: "Sweep") -> None:
    if options.launcher == "local":
        _local_slots(options, sweep)
    elif options.jobs is not None:
        raise InputError("--jobs", f"is for --launcher local; {options.launcher} has its own.")


def _launcher(options: Options, sweep: "Sweep", output: Output) -> "Launcher":
    if options.launcher == "local":
        return _local_launcher(options, sweep, output)
    output.say(f"{len(sweep.points)} runs by {options.launcher}, in {options.out}")
    if options.launcher == "ray":
        from dpscale.sweep.launchers.ray import RayLauncher

        return RayLauncher(address=os.environ.get("RAY_ADDRESS"))
    from dpscale.sweep.launchers.slurm import SlurmLauncher

    return SlurmLauncher(options.out / "slurm", options=sweep.slurm)


def _local_launcher(options: Options, sweep: "Sweep", output: Output) -> "Launcher":
    from dpscale.sweep.launchers.local import LocalLauncher

    jobs, cores = _local_slots(options, sweep)
    output.say(f"{len(sweep.points)} runs, {jobs} at a time, in {options.out}")
    return LocalLauncher(jobs, environment=os.environ, cores=cores)


def _local_slots(options: Options, sweep: "Sweep") -> tuple[int, int]:
    """How many runs at a time, and the cores that the largest needs."""
    needs = [sweep.resources_of(point) for point in sweep.points]
    cores = max((need.hosts * need.cores for need in needs), default=1)
    jobs = max(1, len(available_cores()) // cores) if options.jobs is None else options.jobs
    if jobs < 1:
        raise InputError("--jobs", f"expected at least 1, found {jobs}.")
    return jobs, cores


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
