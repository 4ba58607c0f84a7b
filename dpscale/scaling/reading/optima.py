"""Published optima: tables of the best configuration under each of several budgets.

Such a row says more than a loss. Its model size, iterations and batch were the best that its
compute could buy at its privacy budget, so no other point of the same compute may promise less.
`optima_fit` uses both; here tables are read, and the noise behind their rows is accounted for.

A table is a TOML file; `embedded/mckenna2025_table2.toml` is one, and shows every key.
"""

import hashlib
import math
import tomllib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from dpscale.compute import train_flops
from dpscale.errors import InputError
from dpscale.privacy.accounting.calibration import calibrate_noise_multiplier
from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier
from dpscale.scaling.forms import Array, Points, noise_floor
from dpscale.scaling.reading.runs import Target

COLUMNS = (
    *("dataset_size", "epsilon", "train_flops", "loss"),
    *("num_params", "iterations", "expected_batch_size"),
)

NEAR_COPY_LOSS, NEAR_COPY_CHOICE = 0.05, 0.25
"""Rows are near-copies where their losses differ by at most 5 %, and M, T and B by at most 25 %
each: what two printed digits and a grid of configurations leave of one optimum."""

FLOPS_TOLERANCE = 0.1
"""How far 6·M·B·T·S of a row may lie from its stated compute: its factors have two digits."""

NUM_SIZES, NUM_BATCHES, BATCH_SPAN = 33, 49, 300.0
"""A row's slice: sizes over the table's range, and batches up to 300 times smaller and larger."""


@dataclass(frozen=True)
class Optimum:
    """The best configuration under one budget, and the noise that its privacy asks for."""

    dataset_size: int
    epsilon: float
    train_flops: float
    loss: float
    num_params: float
    iterations: float
    expected_batch_size: float
    noise_batch_ratio: float


@dataclass(frozen=True)
class Optima:
    """A table of optima, and what all of its rows share.

    Args:
      setting: What was trained, in words.
      num_params_range: Least and largest model behind the table; an optimum at an end may
        lie beyond it.
      copies: For each row the number of its group of near-copies, from 0.
    """

    title: str
    setting: str
    target: Target
    delta: float
    seq_len: int
    vocab_size: int
    physical_batch_size: int
    num_params_range: tuple[float, float]
    swept_learning_rates: tuple[float, float]
    rows: tuple[Optimum, ...]
    copies: tuple[int, ...]
    source: str
    data_sha256: str

    @property
    def num_distinct(self) -> int:
        """Rows, near-copies counted once."""
        return len(set(self.copies))

    @property
    def ratio_floor(self) -> float:
        """What stands for no noise in forms that take the ratio's logarithm."""
        sizes = [row.num_params for row in self.rows]
        return noise_floor(
            sizes, self.physical_batch_size, [row.noise_batch_ratio for row in self.rows]
        )

    def points(self) -> Points:
        """Where the rows stand."""
        return self._at(
            [row.num_params for row in self.rows],
            [row.iterations for row in self.rows],
            [row.noise_batch_ratio for row in self.rows],
        )

    def slices(self) -> Points:
        """What the compute of each row could have bought: arrays [rows, sizes · batches].

        Every combination of a size of the table's range and a batch of at most N, with the
        iterations that 6·M·B·T·S of the row pays and (approximately) the noise that its privacy
        asks for. Where it pays less than one iteration, the row itself stands in.
        """
        parts = [self._slice(row) for row in self.rows]
        return self._at(*(np.stack(values) for values in zip(*parts, strict=True)))

    def _slice(self, row: Optimum) -> tuple[Array, Array, Array]:
        sizes = np.geomspace(*self.num_params_range, NUM_SIZES)
        least = max(1.0, row.expected_batch_size / BATCH_SPAN)
        most = min(row.dataset_size, row.expected_batch_size * BATCH_SPAN)
        size, batch = (
            grid.ravel() for grid in np.meshgrid(sizes, np.geomspace(least, most, NUM_BATCHES))
        )
        own = row.num_params * row.expected_batch_size * row.iterations
        iterations = own / (size * batch)
        paid = iterations >= 1
        noise = surrogate_noise_multiplier(
            target_epsilon=row.epsilon,
            target_delta=self.delta,
            sampling_prob=batch / row.dataset_size,
            iterations=np.maximum(iterations, 1.0),
        )
        return (
            np.where(paid, size, row.num_params),
            np.where(paid, iterations, row.iterations),
            np.where(paid, noise / batch, row.noise_batch_ratio),
        )

    def _at(self, num_params: Any, iterations: Any, ratio: Any) -> Points:
        return Points.of(
            num_params,
            iterations,
            ratio,
            batch_size=self.physical_batch_size,
            ratio_floor=self.ratio_floor,
        )


def read_optima(path: Path, *, source: str) -> Optima:
    """Reads a table and calibrates the noise of every row; about a third of a second a row.

    Args:
      source: What the table is called in the law.

    Raises:
      InputError: No such file, not a table of optima, or a row that contradicts itself.
    """
    try:
        content = path.read_bytes()
        fields = tomllib.loads(content.decode())
    except FileNotFoundError:
        raise InputError(source, "no such file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(source, f"is not TOML ({error}).") from None
    _expect_keys(fields, source)
    rows = [_checked(row, index, fields, source) for index, row in enumerate(fields["rows"])]
    return Optima(
        **{key: fields[key] for key in _SHARED},
        num_params_range=_pair(fields, "num_params_range", source),
        swept_learning_rates=_pair(fields, "swept_learning_rates", source),
        rows=tuple(_optimum(row, fields["delta"]) for row in rows),
        copies=_copies(rows),
        source=source,
        data_sha256=hashlib.sha256(content).hexdigest(),
    )


_SHARED = (
    *("title", "setting", "target", "delta", "seq_len", "vocab_size", "physical_batch_size"),
)


def _expect_keys(fields: dict[str, Any], source: str) -> None:
    for key in (*_SHARED, "num_params_range", "swept_learning_rates", "columns", "rows"):
        if key not in fields:
            raise InputError(f"{source}: {key}", "missing; a table of optima needs it.")
    if tuple(fields["columns"]) != COLUMNS:
        raise InputError(
            f"{source}: columns", f"expected {', '.join(COLUMNS)}, found {fields['columns']!r}."
        )


def _pair(fields: dict[str, Any], key: str, source: str) -> tuple[float, float]:
    value = fields[key]
    if not (isinstance(value, list) and len(value) == 2 and 0 < value[0] <= value[1]):
        raise InputError(f"{source}: {key}", f"expected [least, largest], found {value!r}.")
    return float(value[0]), float(value[1])


def _checked(row: Any, index: int, fields: dict[str, Any], source: str) -> dict[str, float]:
    """A row by column, once it is seen to be positive, in range, and true to its own compute."""
    where = f"{source}: rows[{index}]"
    if not (isinstance(row, list) and len(row) == len(COLUMNS)):
        raise InputError(where, f"expected {len(COLUMNS)} numbers, found {row!r}.")
    values = dict(zip(COLUMNS, map(float, row), strict=True))
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{where}: {name}", f"expected a number above 0, found {value:g}.")
    spent = train_flops(
        num_params=values["num_params"],
        batch_size=values["expected_batch_size"],
        iterations=values["iterations"],
        seq_len=fields["seq_len"],
    )
    if abs(spent / values["train_flops"] - 1) > FLOPS_TOLERANCE:
        raise InputError(
            f"{where}: train_flops",
            f"6·M·B·T·S of the row is {spent:.3g}, not {values['train_flops']:.3g}.",
        )
    return values


def _optimum(row: dict[str, float], delta: float) -> Optimum:
    noise = calibrate_noise_multiplier(
        target_epsilon=row["epsilon"],
        target_delta=delta,
        dataset_size=round(row["dataset_size"]),
        expected_batch_size=round(row["expected_batch_size"]),
        iterations=round(row["iterations"]),
    )
    size = round(row.pop("dataset_size"))
    return Optimum(size, **row, noise_batch_ratio=noise / row["expected_batch_size"])


def _copies(rows: list[dict[str, float]]) -> tuple[int, ...]:
    """Groups of near-copies: whatever is linked by pairs that nearly agree."""
    group = list(range(len(rows)))
    for i, j in combinations(range(len(rows)), 2):
        if _nearly_equal(rows[i], rows[j]):
            group = [group[i] if each == group[j] else each for each in group]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(group))}
    return tuple(numbers[each] for each in group)


def _nearly_equal(one: dict[str, float], other: dict[str, float]) -> bool:
    def apart(name: str) -> float:
        return abs(math.log(one[name] / other[name]))

    choices = ("num_params", "iterations", "expected_batch_size")
    return apart("loss") <= math.log1p(NEAR_COPY_LOSS) and all(
        apart(name) <= math.log1p(NEAR_COPY_CHOICE) for name in choices
    )
