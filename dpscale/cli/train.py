"""`dpscale train`: one run, private or law-fitting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError
from dpscale.records import RECEIPT_FILE

if TYPE_CHECKING:
    from dpscale.config import RunConfig
    from dpscale.records import RunResult


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Train one model from a config file.

    The file's `purpose` says what for. A "private" run draws Poisson batches, adds noise
    calibrated to its target (epsilon, delta), and ends with a receipt. A "law-fitting" run
    has a fixed batch and a given noise-batch ratio, and makes no privacy claim.

    Repeat the command to go on after an interruption. A private run that was changed in
    between is refused: its noise must not be used twice.
    """

    config: Annotated[BucketPath, tyro.conf.Positional]
    """The run's config file (TOML)."""
    out: BucketPath | None = None
    """The run's folder, local or on gs://; by default runs/ and the run's id."""
    keys: Path | None = None
    """Local folder for the secret keys of a private run, where its own will not do: a bucket has no
    files that only you can read. Give it each time. Several hosts need one that all share."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Replace a setting, as in --set optimizer.learning_rate=0.01; may be repeated."""
    coordinator: str | None = None
    """A run over several hosts: HOST:PORT of the first. Start the same command on each. On Slurm
    (srun) and on TPU slices they find each other by themselves."""
    num_hosts: int | None = None
    """How many hosts there are."""
    host_index: int | None = None
    """Which of them this is, from 0."""
    grace_seconds: float = 60.0
    """A run over several hosts: how long after SIGTERM it may take to save its state. Machines
    that are taken away are often gone after 30 seconds."""


def run(options: Options, output: Output) -> ExitCode:
    """Trains; `FAILED_POINTS` when the run diverged."""
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    config = load_run_config(options.config, options.set)
    run_dir = options.out or Path("runs") / config.run_id
    from dpscale.training.run_keys import check_place

    check_place(config, run_dir, options.keys)  # before anything is said or done
    from dpscale.records import Status
    from dpscale.training.hosts import Hosts, is_first, join
    from dpscale.training.interruption import StopRequest, stop_on_signals
    from dpscale.training.loop import train
    from dpscale.training.termination import end_after_grace

    hosts = Hosts(
        coordinator=options.coordinator,
        num_hosts=options.num_hosts,
        host_index=options.host_index,
    )
    if options.grace_seconds <= 0:
        raise InputError("--grace-seconds", f"expected above 0, found {options.grace_seconds:g}.")
    is_among_others = join(hosts)
    if is_among_others:
        # JAX takes SIGTERM itself then, and lets the hosts agree where to stop.
        end_after_grace(options.grace_seconds)
    signals = nullcontext(StopRequest()) if is_among_others else stop_on_signals()
    if is_first():
        _announce(config, run_dir, output)
    with signals as stop, _progress(config, output) as observe:
        result = train(config, run_dir, keys_dir=options.keys, stop=stop, observe=observe)
    if is_first():
        _report(result, run_dir, output)
    return ExitCode.OK if result.status is Status.FINISHED else ExitCode.FAILED_POINTS


def load_run_config(path: Path, assignments: tuple[str, ...]) -> "RunConfig":
    """A run config from its file, with `--set` applied and `model.shape` expanded."""
    from dpscale.config import RunConfig
    from dpscale.schema import read_toml, with_overrides
    from dpscale.sizes import expand_shape

    fields = expand_shape(with_overrides(read_toml(path), assignments), where=str(path))
    return RunConfig.from_dict(fields, where=str(path))


def _announce(config: "RunConfig", run_dir: Path, output: Output) -> None:
    import jax

    from dpscale.compute import count_params, train_flops
    from dpscale.sweep.device_hours import CPU_CORE_FLOPS_PER_SECOND
    from dpscale.training import provenance

    num_params = count_params(config.model).total
    flops = train_flops(
        num_params=num_params,
        batch_size=config.batch_size,
        iterations=config.training.iterations,
        seq_len=config.model.seq_len,
    )
    output.say(
        f"{config.purpose} run in {run_dir}: {num_params:,} parameters, batch {config.batch_size}, "
        f"{config.training.iterations} iterations, {flops:.3g} FLOPs, on {provenance.device()}"
    )
    hours = flops / CPU_CORE_FLOPS_PER_SECOND / 3600
    if jax.default_backend() == "cpu" and hours > 1:
        output.warn(f"this device is a CPU, and the run would take it some {hours:,.0f} hours.")


@contextmanager
def _progress(config: "RunConfig", output: Output) -> Iterator[Callable[[dict[str, Any]], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = output.progress_console
    # Where stderr is no terminal a bar would leave a blank line, and nothing to read.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("compiling", total=config.training.iterations)

        def show(line: dict[str, Any]) -> None:
            text = f"iteration {line['step']}, train loss {line['train_loss']:.3f}"
            if "epsilon" in line:
                text += f", epsilon spent {line['epsilon']:.3g}"
            bar.update(task, completed=line["step"], description=text)

        yield show


def _report(result: "RunResult", run_dir: Path, output: Output) -> None:
    losses = {"train": result.train_loss, "eval": result.eval_loss}
    text = ", ".join(f"{name} loss {loss:.4f}" for name, loss in losses.items() if loss is not None)
    output.say(f"{result.status} after {result.steps_taken} iterations: {result.error or text}")
    if result.epsilon is not None:
        output.say(f"epsilon spent {result.epsilon:.4g}; see {run_dir / RECEIPT_FILE}")
    output.result(result.to_dict())
