"""`dpscale synergy`: what doubling epsilon, batch and data does to the noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dpscale.cli.numbers import whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dpscale.scaling.synergy import Doubling, ExactNoise, Setting


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Double the privacy, compute and data budgets, and see the noise-batch ratio fall.

    Each budget is doubled alone and in tandem with the others: epsilon at the same delta; the
    expected batch size at the same iterations, which doubles the training compute; the size
    of the data set at the same batch and iterations. Every number is calibrated exactly, as
    `dpscale calibrate` does without a cap. The defaults are VaultGemma's budgets.
    """

    eps: Annotated[float, tyro.conf.arg(aliases=("--epsilon",))] = 2.0
    """Epsilon: the privacy budget."""
    delta: float = 1.1e-10
    """Delta; it is never doubled."""
    dataset_size: float = 12_695_312_500
    """Privacy units in the data (N): the data budget."""
    expected_batch_size: float = 517_989
    """Expected units in a batch (q · N): the compute budget, at fixed iterations."""
    iterations: float = 100_000
    """Optimizer steps; they are never doubled."""
    figures: Path | None = None
    """Folder for three vector fields (PNG, and their arrows as CSV); about half a minute."""


def run(options: Options, output: Output) -> ExitCode:
    """Prints the table; draws the fields where asked."""
    from dpscale.scaling.synergy import ExactNoise, Setting, doublings, reading

    if options.figures is not None and options.figures.exists() and not options.figures.is_dir():
        raise InputError("--figures", f"expected a folder, found the file {options.figures}.")
    base = Setting(
        epsilon=options.eps,
        delta=options.delta,
        dataset_size=whole_number("--dataset-size", options.dataset_size),
        expected_batch_size=whole_number("--expected-batch-size", options.expected_batch_size),
        iterations=whole_number("--iterations", options.iterations),
    )
    noise = ExactNoise()
    rows = doublings(base, noise)
    meaning = reading(rows)
    _print(base, rows, output)
    output.say(meaning)
    files = [] if options.figures is None else _draw(base, noise, options.figures, output)
    output.result(
        {
            "delta": base.delta,
            "iterations": base.iterations,
            "rows": [_row(row) for row in rows],
            "reading": meaning,
            "figures": [str(path) for path in files if path.suffix == ".png"],
            "arrows": [str(path) for path in files if path.suffix == ".csv"],
        }
    )
    return ExitCode.OK


def _print(base: "Setting", rows: "Sequence[Doubling]", output: Output) -> None:
    output.say(
        f"epsilon {base.epsilon:g} (privacy), expected batch size {base.expected_batch_size:,.0f} "
        f"(compute), dataset size {base.dataset_size:,.0f} (data); delta {base.delta:g} and "
        f"{base.iterations:,} iterations stay"
    )
    output.table(
        ("doubled", "noise multiplier", "noise-batch ratio", "of the base", "log2 fall"),
        [
            (
                _named(row),
                f"{row.noise_multiplier:.6g}",
                f"{row.noise_batch_ratio:.4g}",
                f"x{row.relative_ratio:.3f}",
                f"{row.log2_fall + 0.0:.3f}",  # never -0.000
            )
            for row in rows
        ],
    )


def _named(row: "Doubling") -> str:
    return "all three" if len(row.budgets) == 3 else " + ".join(row.budgets) or "nothing"


def _row(row: "Doubling") -> dict[str, object]:
    return {
        "doubled": list(row.budgets),
        "epsilon": row.setting.epsilon,
        "dataset_size": round(row.setting.dataset_size),
        "expected_batch_size": round(row.setting.expected_batch_size),
        "noise_multiplier": row.noise_multiplier,
        "noise_batch_ratio": row.noise_batch_ratio,
        "relative_ratio": row.relative_ratio,
        "log2_fall": row.log2_fall,
    }


def _draw(base: "Setting", noise: "ExactNoise", folder: Path, output: Output) -> list[Path]:
    """One field after the other, each on disk before the next is begun."""
    from rich.progress import Progress

    from dpscale.scaling.figures.synergy_figures import write_field
    from dpscale.scaling.synergy import PAIRS, field, field_settings

    files: list[Path] = []
    with Progress(console=output.progress_console) as progress:
        for x, y in PAIRS:
            settings = field_settings(base, x, y)
            for setting in progress.track(settings, description=f"{x} and {y}"):
                noise.remember(setting)
            files.extend(write_field(field(base, x, y, noise), folder))
    for path in files:
        output.say(f"wrote {path}")
    return files
