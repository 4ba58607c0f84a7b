"""Noise for any batch and iterations under one budget: a table, corrected where it is known.

Thousands of candidates are compared. The approximation (`privacy/accounting/surrogate.py`, mostly
within 1 %) is asked at quarter octaves of sampling probability and iterations, and interpolated
between them in logarithms. Wherever the exact noise has been worked out, the ratio of exact
to approximate noise holds; around it, the ratio is spread.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from dpscale.scaling.advice.budget import Accounting
from dpscale.scaling.advice.multilinear import multilinear
from dpscale.scaling.forms import Array

PER_OCTAVE: Final = 4


@dataclass(frozen=True)
class NoiseTable:
    """Approximate noise over (log q, log T), for one epsilon and delta.

    Args:
      log_probs, log_iterations: float64[rows], float64[columns], rising.
      log_noise: float64[rows, columns].
    """

    log_probs: Array
    log_iterations: Array
    log_noise: Array

    def log_noise_multiplier(self, sampling_prob: Array, iterations: Array) -> Array:
        """Of their shape."""
        places = (np.log(sampling_prob), np.log(iterations))
        return multilinear((self.log_probs, self.log_iterations), self.log_noise, places)


def tabulate_noise(
    accounting: Accounting, *, least_prob: float, most_iterations: float
) -> NoiseTable:
    """A table from `least_prob` to 1, and from 1 iteration to `most_iterations`."""
    probs = np.geomspace(least_prob, 1, _count(1 / least_prob))
    iterations = np.geomspace(1, most_iterations, _count(most_iterations))
    q, t = (each.ravel() for each in np.meshgrid(probs, iterations, indexing="ij"))
    noise = accounting.approximate(q, t).reshape(probs.size, iterations.size)
    return NoiseTable(np.log(probs), np.log(iterations), np.log(noise))


def _count(span: float) -> int:
    return 2 + int(np.ceil(PER_OCTAVE * np.log2(max(span, 2.0))))


@dataclass(frozen=True)
class NoiseField:
    """Noise over batches and iterations of one data set.

    Args:
      exact: The exact noise multiplier by (batch, iterations), where it is known.
      places: float64[known, 2], log batch and log iterations there.
      log_ratios: float64[known], log of exact over approximate noise there.
    """

    table: NoiseTable
    dataset_size: int
    exact: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    places: Array = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    log_ratios: Array = dataclasses.field(default_factory=lambda: np.zeros(0))

    def noise_multiplier(self, batch: Array, iterations: Array) -> Array:
        """Exact (to rounding) where it is known, about 1 % off at most places else."""
        log_noise = self._approximate(batch, iterations)
        if self.log_ratios.size:
            log_noise = log_noise + self._spread(batch, iterations)
        return np.asarray(np.exp(log_noise))

    def with_exact(self, batch: int, iterations: int, noise: float) -> "NoiseField":
        """The same, knowing the exact noise at one more place."""
        off = np.log(noise) - self._approximate(np.array(batch), np.array(iterations))
        return dataclasses.replace(
            self,
            exact={**self.exact, (batch, iterations): noise},
            places=np.concatenate([self.places, np.log([[batch, iterations]])]),
            log_ratios=np.append(self.log_ratios, off),
        )

    @property
    def largest_correction(self) -> float:
        """By how much the approximation was off at worst, as a share; 0 where nothing is known."""
        return float(np.expm1(np.max(np.abs(self.log_ratios), initial=0.0)))

    def moved_to(self, table: NoiseTable, dataset_size: int) -> "NoiseField":
        """Another budget's, every ratio taken over: the approximation errs alike nearby."""
        return dataclasses.replace(self, table=table, dataset_size=dataset_size, exact={})

    def _approximate(self, batch: Array, iterations: Array) -> Array:
        return self.table.log_noise_multiplier(batch / self.dataset_size, iterations)

    def _spread(self, batch: Array, iterations: Array) -> Array:
        """Weights fall with the inverse square of the distance in (log batch, log iterations)."""
        log_batch, log_iterations = np.broadcast_arrays(np.log(batch), np.log(iterations))
        here = np.stack([log_batch, log_iterations], axis=-1)
        squares = np.sum((here[..., None, :] - self.places) ** 2, axis=-1)
        weights = 1.0 / (squares + 1e-12)
        return np.asarray((weights @ self.log_ratios) / weights.sum(axis=-1))
