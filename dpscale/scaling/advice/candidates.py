"""What a recommendation chooses from: shapes, batches, and the iterations that are paid for."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpscale.compute import count_params, train_flops
from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.limits import Limits, none_left
from dpscale.scaling.forms import Array
from dpscale.sizes import LADDER_WIDTHS, ladder_shape

BATCHES_PER_OCTAVE: Final = 8

MOST_ITERATIONS: Final = 1_000_000
"""Ten times the longest private pretraining that was published (VaultGemma, 100,000)."""

SEARCH_WIDTHS: Final = tuple(
    sorted(
        {
            *LADDER_WIDTHS,
            *range(16, 64, 8),
            *range(64, 256, 16),
            *range(256, 512, 32),
            *range(512, 1024, 64),
            *range(1024, 1665, 128),
        }
    )
)
"""The ladder, and widths between its rungs. Neighbours among the rungs differ by up to 3x in
parameters, which is wider than many a near-optimal set; these by 1.2x at most places, and by
1.7x where a layer is added to a small model."""


@dataclass(frozen=True)
class Candidates:
    """Shapes, batches and iterations, one of each a candidate.

    Args:
      shape: int[candidates], index into `shapes`.
      num_params, expected_batch_size, iterations: float64[candidates], whole numbers.
    """

    shapes: tuple[ModelConfig, ...]
    shape: NDArray[np.intp]
    num_params: Array
    expected_batch_size: Array
    iterations: Array

    def some(self, chosen: NDArray[np.bool_]) -> "Candidates":
        """A part of them."""
        return Candidates(
            self.shapes,
            self.shape[chosen],
            self.num_params[chosen],
            self.expected_batch_size[chosen],
            self.iterations[chosen],
        )

    def place(self, at: int) -> tuple[int, int, int]:
        """Parameters, batch and iterations of one of them."""
        values = (self.num_params, self.expected_batch_size, self.iterations)
        size, batch, iterations = (int(each[at]) for each in values)
        return size, batch, iterations


NO_LIMITS: Final = Limits()


def list_candidates(
    budget: Budget,
    limits: Limits = NO_LIMITS,
    *,
    batches_per_octave: int = BATCHES_PER_OCTAVE,
) -> Candidates:
    """Every (shape, batch) within `limits`, with the most iterations that they and compute allow.

    Raises:
      InputError: The compute does not pay one iteration of the smallest model, or a limit
        leaves nothing.
    """
    shapes = search_shapes(budget.vocab_size, budget.seq_len)
    sizes = np.array([count_params(shape).total for shape in shapes], float)
    per_iteration = train_flops(num_params=1, batch_size=1, iterations=1, seq_len=budget.seq_len)
    smallest = per_iteration * sizes.min()
    if budget.train_flops < smallest:
        raise InputError(
            "--flops",
            f"{budget.train_flops:.3g} does not pay one iteration of one unit of the smallest "
            f"model ({smallest:.3g}).",
        )
    batches = list_batches(budget.dataset_size, limits, batches_per_octave)
    index = np.repeat(np.arange(sizes.size, dtype=np.intp), batches.size)
    batch = np.tile(batches, sizes.size)
    paid = budget.train_flops / (per_iteration * sizes[index] * batch)
    most = np.floor(np.minimum(paid, MOST_ITERATIONS))
    if limits.max_epochs is not None:
        # 1e-9: B·T/N of a whole number of epochs is not to fail by the last bit.
        allowed = limits.max_epochs * budget.dataset_size / batch * (1 + 1e-9)
        most = np.minimum(most, np.floor(allowed))
    fits = most >= limits.fewest_iterations
    if limits.max_params is not None:
        fits &= sizes[index] <= limits.max_params
    if not fits.any():
        raise none_left(
            limits,
            sizes=sizes,
            iterations_paid=float(np.floor(budget.train_flops / smallest)),
            most_iterations=MOST_ITERATIONS,
            dataset_size=budget.dataset_size,
        )
    return Candidates(shapes, index[fits], sizes[index][fits], batch[fits], most[fits])


def list_batches(dataset_size: int, limits: Limits, per_octave: int) -> Array:
    """Whole batches on a geometric grid from 1 to N, or to the largest allowed."""
    most = float(dataset_size)
    if limits.max_batch is not None:
        most = min(most, np.floor(limits.max_batch))
    grid = np.geomspace(1, most, 1 + max(1, round(per_octave * np.log2(max(most, 2)))))
    return np.asarray(np.unique(np.round(grid)))


@cache
def search_shapes(vocab_size: int, seq_len: int) -> tuple[ModelConfig, ...]:
    """The shapes of `SEARCH_WIDTHS`, by size."""
    shapes = [
        ladder_shape(width, vocab_size=vocab_size, seq_len=seq_len) for width in SEARCH_WIDTHS
    ]
    return tuple(sorted(shapes, key=lambda shape: count_params(shape).total))
