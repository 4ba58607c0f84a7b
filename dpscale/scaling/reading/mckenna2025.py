"""The runs of McKenna et al. (2025, arXiv 2501.18914), in the layout of their `results.csv`.

One row is one measurement, the mean training loss over 100 iterations. A run is a (model,
learning rate, noise-batch ratio). What the file does not hold and a law needs is the paper's
setting, or an assumption that stands in the notes of what was read.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpscale.errors import InputError
from dpscale.scaling.forms import Array
from dpscale.scaling.reading.frames import (
    expect_columns,
    expect_filled,
    expect_rates,
    expect_ratios,
    expect_whole,
    numbers,
    read_frame,
)
from dpscale.scaling.reading.run_set import ExcludedRun, RunCurve, RunSet, Target, choose_runs

if TYPE_CHECKING:
    import pandas as pd

MODEL, RATE, STEP = "Model", "Learning Rate", "Iterations"
RATIO, LOSS = "Noise Batch Ratio", "Cross Entropy"
COLUMNS = (MODEL, RATE, STEP, RATIO, LOSS)
"""The file's header; their order does not matter, nor do further columns."""

SIZES: dict[str, tuple[int, int]] = {
    "BertTiny": (4_500_000, 128),
    "BertMini": (11_400_000, 256),
    "BertSmall": (29_000_000, 512),
    "BertMedium": (41_000_000, 512),
    "BertBase": (109_000_000, 768),
    "BertLarge": (335_000_000, 1024),
    "BertMega": (778_000_000, 1536),
}
"""(parameters, width) of the paper's models, parameters as rounded as the paper has them."""

ITERATIONS, PHYSICAL_BATCH_SIZE, SEQ_LEN = 128_000, 1024, 512
"""The paper's setting of every run."""

VOCAB_SIZE = 30_522
"""BERT's; the paper does not state its own."""

_ASSUMED = (
    f"vocab_size {VOCAB_SIZE} is that of BERT: the paper does not state its own",
    "num_params are those of the paper's table, rounded there; those without the embedding are "
    "taken to be vocab_size x width fewer",
    f"physical_batch_size {PHYSICAL_BATCH_SIZE} and seq_len {SEQ_LEN} are the paper's: the file "
    "does not hold them",
)


@dataclass(frozen=True)
class _Table:
    """The file's columns, sorted by run and then by step.

    Args:
      starts: int[runs], the first row of each run.
    """

    models: NDArray[np.object_]
    rates: Array
    ratios: Array
    steps: Array
    losses: Array
    starts: NDArray[np.intp]

    def rows(self) -> list[slice]:
        """The rows of each run."""
        ends = np.append(self.starts[1:], self.steps.size)
        return [slice(a, b) for a, b in zip(self.starts.tolist(), ends.tolist(), strict=True)]


def read_mckenna2025(path: Path, *, target: Target = "train_loss") -> RunSet:
    """Reads a `results.csv` (or the same table in Parquet).

    The planned length is the paper's 128,000 iterations. Where no run gets there and more than
    half of them end at one other step, that step is the planned length, and a note says so.

    Raises:
      InputError: Not a file, a missing column, a cell that cannot be right, another target than
        `train_loss`, or no usable run.
    """
    if target != "train_loss":
        raise InputError(
            str(path), f"this layout holds training losses: {target} cannot be fitted from it."
        )
    if path.is_dir():
        raise InputError(str(path), "is a folder; expected the authors' results.csv itself.")
    table = _read(path)
    planned, note = _planned_iterations(table)
    curves: list[RunCurve] = []
    left_out: list[ExcludedRun] = []
    repeated = 0
    for rows in table.rows():
        run_id = _run_id(table, rows.start)
        curve, reason, copies = _curve(table, rows, run_id, planned)
        repeated += copies
        if curve is None:
            left_out.append(ExcludedRun(run_id, reason))
        else:
            curves.append(curve)
    copies_note = f"{repeated} rows that repeat another were counted once" if repeated else None
    return choose_runs(
        curves,
        target=target,
        source=str(path),
        data_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        excluded=left_out,
        notes=[*_ASSUMED, *(text for text in (note, copies_note) if text)],
    )


def _read(path: Path) -> _Table:
    frame = read_frame(path)
    hint = f" Expected the columns {', '.join(COLUMNS)}."
    expect_columns(frame, COLUMNS, path, layout=COLUMNS, hint=hint)
    if frame.empty:
        raise InputError(str(path), "the table has no rows.")
    values = {column: numbers(frame, column, path) for column in (RATE, STEP, RATIO, LOSS)}
    for column in (MODEL, RATE, STEP, RATIO):  # an empty loss is the run's fault
        expect_filled(frame, column, path)
    expect_rates(values[RATE], RATE, path)
    expect_ratios(values[RATIO], RATIO, path)
    expect_whole(values[STEP], STEP, path)
    return _sorted_by_run(frame[MODEL], values)


def _sorted_by_run(models: "pd.Series[str]", values: dict[str, Array]) -> _Table:
    import pandas as pd

    codes, names = pd.factorize(models.astype(str).str.strip())
    order = np.lexsort((values[STEP], values[RATE], values[RATIO], codes))
    key = np.stack([codes, values[RATE], values[RATIO]])[:, order]
    is_start = np.append(True, (key[:, 1:] != key[:, :-1]).any(axis=0))
    return _Table(
        models=np.asarray(names, object)[codes[order]],
        rates=values[RATE][order],
        ratios=values[RATIO][order],
        steps=values[STEP][order],
        losses=values[LOSS][order],
        starts=np.flatnonzero(is_start),
    )


def _planned_iterations(table: _Table) -> tuple[int, str | None]:
    """The length that runs were planned for, and what to say about it."""
    ends = [int(table.steps[rows.stop - 1]) for rows in table.rows()]
    (common, count), *_ = Counter(ends).most_common(1)
    if ITERATIONS in ends or 2 * count <= len(ends):
        return ITERATIONS, None
    return common, (
        f"{count} of {len(ends)} runs end at step {common} and none at the paper's {ITERATIONS}: "
        f"{common} is taken for the planned iterations"
    )


def _curve(
    table: _Table, rows: slice, run_id: str, planned: int
) -> tuple[RunCurve | None, str, int]:
    """A run, or None and the reason why it is none; and how many of its rows repeat another."""
    model = str(table.models[rows.start])
    if model not in SIZES:
        return None, f"model {model!r} is not one of the paper's: {', '.join(SIZES)}", 0
    steps, losses = table.steps[rows], table.losses[rows]
    again = np.append(False, steps[1:] == steps[:-1])
    differs = again & np.append(False, losses[1:] != losses[:-1])
    if differs.any():
        at = int(np.argmax(differs))
        reason = f"two losses at step {steps[at]:.0f}: {losses[at - 1]:g} and {losses[at]:g}"
        return None, reason, 0
    kept = ~again & (steps > 0)
    num_params, width = SIZES[model]
    curve = RunCurve(
        run_id=run_id,
        num_params=num_params,
        num_params_non_embedding=num_params - VOCAB_SIZE * width,
        iterations=planned,
        noise_batch_ratio=float(table.ratios[rows.start]),
        learning_rate=float(table.rates[rows.start]),
        seed=0,
        physical_batch_size=PHYSICAL_BATCH_SIZE,
        seq_len=SEQ_LEN,
        vocab_size=VOCAB_SIZE,
        steps=steps[kept],
        losses=losses[kept],
    )
    return curve, "", int(again.sum())


def _run_id(table: _Table, row: int) -> str:
    """What tells a run from the others of the file."""
    rate, ratio = float(table.rates[row]), float(table.ratios[row])
    return f"{table.models[row]} rate={_short(rate)} ratio={_short(ratio)}"


def _short(value: float) -> str:
    """A number, as a power of two where it is one.

    >>> _short(2.0**-9), _short(0.003), _short(0.0)
    ('2^-9', '0.003', '0')
    """
    mantissa, exponent = np.frexp(value)
    return f"2^{int(exponent) - 1}" if mantissa == 0.5 else f"{value!r}".removesuffix(".0")
