"""Batches for the whole step: Poisson ones, and ones of the expected size. No JAX."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpscale.bench.shapes import whole_microbatches
from dpscale.privacy.keys import insecure_keys
from dpscale.privacy.sampling import PoissonSampler

POOL = 64
"""A made-up data set holds so many expected batches."""

Batch = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""int32[B, S + 1] tokens, examples first, and bool[B] is_padding."""


@dataclass(frozen=True)
class Draws:
    """The batches of all rounds.

    Attributes:
      units: int32[N, S + 1], the data set.
      poisson: Of each round, the indices drawn.
      fixed: Of each round, as many indices as a batch holds in expectation: those drawn, cut or
        filled up.
      slots: Rows of a Poisson batch, padding included.
    """

    units: NDArray[np.int32]
    poisson: Sequence[NDArray[np.int64]]
    fixed: Sequence[NDArray[np.int64]]
    slots: int

    @classmethod
    def of(
        cls,
        units: NDArray[np.int32],
        *,
        expected_batch_size: int,
        truncated_batch_size: int,
        microbatch_size: int,
        rounds: int,
        seed: int,
    ) -> "Draws":
        """Draws them all, from keys that anyone can repeat."""
        sampler = PoissonSampler(
            dataset_size=len(units),
            expected_batch_size=expected_batch_size,
            truncated_batch_size=truncated_batch_size,
            key=insecure_keys(seed).sampling,
        )
        poisson = [sampler(step) for step in range(rounds)]
        generator = np.random.default_rng(seed)
        everyone = [generator.permutation(len(units)) for _ in poisson]
        fixed = [
            np.concatenate([drawn, order[~np.isin(order, drawn)]])[:expected_batch_size]
            for drawn, order in zip(poisson, everyone, strict=True)
        ]
        slots = whole_microbatches(min(truncated_batch_size, len(units)), microbatch_size)
        return cls(units, poisson, fixed, slots)

    def poisson_batch(self, index: int) -> Batch:
        """What the private step meets in a round."""
        return self._batch(self.poisson[index], self.slots)

    def fixed_batch(self, index: int, microbatch_size: int) -> Batch:
        """What the non-private step meets, in whole microbatches."""
        drawn = self.fixed[index]
        return self._batch(drawn, whole_microbatches(len(drawn), microbatch_size))

    def _batch(self, drawn: NDArray[np.int64], slots: int) -> Batch:
        tokens = np.zeros((slots, self.units.shape[1]), np.int32)
        tokens[: len(drawn)] = self.units[drawn]
        return tokens, np.arange(slots) >= len(drawn)


def default_cap(expected_batch_size: int) -> int:
    """A cap that one batch in a million exceeds: five standard deviations up.

    >>> default_cap(100)
    150
    """
    return expected_batch_size + math.ceil(5 * math.sqrt(expected_batch_size))
