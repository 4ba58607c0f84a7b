"""`dpscale bench`: what clipping, and the whole private step, cost on the device at hand."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.train import load_run_config
from dpscale.errors import ExitCode, InputError
from dpscale.runtime import available_cores

if TYPE_CHECKING:
    from dpscale.bench.report import ClippingReport
    from dpscale.bench.subject import Subject
    from dpscale.bench.timing import Observer, Stopwatch


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Measure what privacy costs on the device at hand.

    `clipping` measures every way to a sum of clipped per-example gradients against the
    best-tuned non-private gradient: the same loss by the same ops, at its own best microbatch.
    `step` measures the whole private step (clipping, noise, Adam, Poisson batches) against the
    whole non-private one. `generation` measures a token that is generated with the cache of
    keys and values against one from the whole text.

    Measured is a shape, or the model of a run's config. Everything runs in one
    process, interleaved round by round, and ratios are taken within rounds. It takes minutes;
    Ctrl-C prints what is there so far.
    """

    what: Annotated[Literal["clipping", "step", "generation"], tyro.conf.Positional]
    """What to measure."""
    config: Annotated[Path | None, tyro.conf.Positional] = None
    """A run's config file (TOML), as `dpscale train` takes it; or give --shape."""
    shape: str | None = None
    """tiny, small or wide (widths 128, 256, 512); or w32: a width of the ladder, with
    quickstart's vocabulary, sequence length and batch."""
    rounds: int = 20
    """Rounds for those that a short first pass leaves in the running."""
    seed: int = 0
    """Of parameters, examples, the order within rounds, and drawn shapes."""
    batch_size: int | None = None
    """Examples in a batch; by default the shape's, or the config's (for clipping at most 64).
    generation: texts that grow side by side, by default one."""
    prompt_tokens: int = 256
    """generation: length of the prompts."""
    drawn: int = 0
    """clipping: measure so many further shapes, drawn from the seed."""
    strategy: Annotated[
        tuple[Literal["vmap", "ghost", "bookkeeping", "jax-privacy"], ...],
        tyro.conf.UseAppendAction,
    ] = ()
    """clipping: only this strategy, beside auto's choice; may be repeated."""
    microbatch_size: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """clipping: only this microbatch, beside auto's choice; may be repeated."""
    all: bool = False
    """clipping: take everything through all rounds, not only what is in the running."""
    write: bool = False
    """clipping: put the fastest strategy, norm rule and microbatch into the config file."""


def run(options: Options, output: Output) -> ExitCode:
    """Measures; `INTERRUPTED` when it was stopped on the way."""
    _check(options)
    subjects = _subjects(options)
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    from dpscale.bench.timing import Stopwatch
    from dpscale.training.interruption import stop_on_signals

    header = _header(options)
    for name, value in header.items():
        output.say(f"{name:<9} {_listed(value)}")
    measure = {"clipping": _clipping, "step": _step, "generation": _generation}[options.what]
    with stop_on_signals() as stop, _progress(output) as observe:
        answer = measure(options, subjects, Stopwatch(Random(options.seed), stop, observe), output)
    output.result({**header, **answer, "is_complete": not stop.is_set})
    if not stop.is_set:
        return ExitCode.OK
    print("dpscale bench: stopped; what was shown is of fewer rounds.", file=sys.stderr)
    return ExitCode.INTERRUPTED


def _check(options: Options) -> None:
    if options.config is not None and options.shape is not None:
        raise InputError("--shape", "expected a shape or a config file, found both.")
    if options.config is None and options.shape is None and not options.drawn:
        raise InputError("--shape", "expected tiny, small, wide or w32; or give a config file.")
    at_least = {"rounds": 1, "batch_size": 1, "prompt_tokens": 1, "drawn": 0, "seed": 0}
    for name, least in at_least.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(name, f"expected at least {least}, found {value}.")
    for size in options.microbatch_size:
        if size < 1:
            raise InputError("--microbatch-size", f"expected at least 1, found {size}.")
    if options.write and options.config is None:
        raise InputError("--write", "needs a config file to write to.")
    if options.what != "clipping":
        for name in ("drawn", "strategy", "microbatch_size", "all", "write"):
            if getattr(options, name):
                raise InputError(name, "belongs to `dpscale bench clipping`.")


def _subjects(options: Options) -> "list[Subject]":
    """What is measured: first what was named, if anything was, then what is drawn."""
    from dpscale.bench.shapes import drawn_shapes, shape_called
    from dpscale.bench.subject import Subject

    subjects = []
    if options.config is not None:
        config = load_run_config(options.config, ())
        subjects.append(Subject.of_config(config, str(options.config), options.batch_size))
    elif options.shape is not None:
        subjects.append(Subject.of_shape(shape_called(options.shape), options.batch_size))
    return subjects + [
        Subject.of_shape(shape) for shape in drawn_shapes(options.seed, options.drawn)
    ]


def _header(options: Options) -> dict[str, Any]:
    from dpscale.bench.peer import peer_version
    from dpscale.training import provenance

    return {
        "command": shlex.join(["dpscale", *sys.argv[1:]]),
        "device": provenance.device(),
        "cores": len(available_cores()),
        "versions": {**provenance.versions(), "jax-privacy": peer_version()},
        "commit": provenance.commit(),
        "seed": options.seed,
    }


def _listed(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {text}" for name, text in value.items() if text is not None)


def _clipping(
    options: Options, subjects: "list[Subject]", stopwatch: "Stopwatch", output: Output
) -> dict[str, Any]:
    from dpscale.bench.peer import peer_version
    from dpscale.cli.bench_tables import print_clipping, print_drawn

    if peer_version() is None:
        output.say("jax_privacy is not installed: `pip install dpscale[bench]` adds it as a peer")
    reports: list[ClippingReport] = []
    for subject in subjects:
        output.say(f"\n{subject.shape}, {subject.shape.num_params:,} parameters")
        report = _measured(options, subject, stopwatch)
        if report is None:
            break
        reports.append(report)
        print_clipping(report, output)
    is_first_drawn = options.config is None and options.shape is None
    named, drawn = reports[: not is_first_drawn], reports[not is_first_drawn :]
    print_drawn(drawn, output)
    answer = {"drawn": [report.to_dict() for report in drawn]}
    for report in named:
        answer |= report.to_dict() | _written(options, report, output)
    return answer


def _measured(
    options: Options, subject: "Subject", stopwatch: "Stopwatch"
) -> "ClippingReport | None":
    from dpscale.bench.candidates import all_candidates, baselines, candidate_of
    from dpscale.bench.clipping import measure_clipping
    from dpscale.bench.limits import within_limit
    from dpscale.bench.peer import peer_version
    from dpscale.bench.programs import Workbench
    from dpscale.training.clipping_choice import most_of_poisson_batch, settled_clipping

    model, batch_size = subject.shape.model, subject.shape.batch_size
    settled = settled_clipping(
        model, subject.open_clipping, batch_size=batch_size, is_poisson=subject.is_poisson
    )
    auto = candidate_of(settled)
    shape = subject.for_clipping(auto.microbatch_size)
    sizes = options.microbatch_size
    # What is measured has no padding, of which larger microbatches have more where sizes vary.
    most = most_of_poisson_batch(batch_size) if subject.is_poisson else batch_size
    candidates = all_candidates(
        min(most, shape.batch_size),
        strategies=options.strategy,
        sizes=sizes,
        with_peer=peer_version() is not None,
    )
    rescales = subject.clipping.rescale_to_unit_norm
    return measure_clipping(
        Workbench.of(shape, options.seed, rescale_to_unit_norm=rescales),
        [*baselines(shape.batch_size, sizes), *within_limit(candidates, model, subject.clipping)],
        auto,
        stopwatch,
        rounds=options.rounds,
        prunes=not options.all,
    )


def _written(options: Options, report: "ClippingReport", output: Output) -> dict[str, Any]:
    """Puts the winner into the config, where that was asked for and there is one."""
    if options.config is None or not options.write:
        return {}
    if report.winner is None or not report.is_complete:
        return {"written": None}
    from dpscale.bench.config_file import write_clipping

    settings = report.winner.candidate.settings
    write_clipping(options.config, settings)
    output.say(f"{options.config}: wrote {_listed(settings)}")
    return {"written": settings}


def _step(
    options: Options, subjects: "list[Subject]", stopwatch: "Stopwatch", output: Output
) -> dict[str, Any]:
    from dpscale.bench.step import measure_step
    from dpscale.cli.bench_tables import print_step
    from dpscale.training.clipping_choice import settled_clipping

    (subject,) = subjects
    shape = subject.shape
    output.say(f"\n{shape}, {shape.num_params:,} parameters")
    clipping = settled_clipping(
        shape.model, subject.clipping, batch_size=shape.batch_size, is_poisson=True
    )
    report = measure_step(
        shape,
        clipping,
        subject.optimizer,
        stopwatch,
        rounds=options.rounds,
        seed=options.seed,
        truncated_batch_size=subject.truncated_batch_size,
    )
    if report is None:
        return {}
    print_step(report, output)
    return report.to_dict()


def _generation(
    options: Options, subjects: "list[Subject]", stopwatch: "Stopwatch", output: Output
) -> dict[str, Any]:
    from dpscale.bench.generation import measure_generation
    from dpscale.cli.bench_tables import print_generation

    (subject,) = subjects
    report = measure_generation(
        subject.shape.model,
        stopwatch,
        batch_size=options.batch_size or 1,
        prompt_tokens=options.prompt_tokens,
        rounds=options.rounds,
        seed=options.seed,
    )
    if report is None:
        return {}
    print_generation(report, output)
    return report.to_dict()


@contextmanager
def _progress(output: Output) -> "Iterator[Observer]":
    """A bar on stderr; where that is no terminal, a line for each thing that is begun."""
    from rich.progress import BarColumn, Progress, TextColumn

    console = output.progress_console
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    last = ""
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=None)

        def show(text: str, done: int, total: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total, description=text)
            if text != last and not console.is_terminal:
                print(text, file=sys.stderr, flush=True)
            last = text

        yield show
