"""Poisson batches as a pure function of (key, step). No JAX.

Every unit enters the batch of a step independently with probability q. Drawing a Binomial
batch size and then a uniform subset of that size is the same distribution, and costs
O(batch) instead of O(N). Since a step's batch depends on nothing but the key and the step,
a resumed run, or any number of hosts, sees the same batches.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dpscale.errors import InputError

KEY_BITS = 128


@dataclass(frozen=True, kw_only=True)
class PoissonSampler:
    """Truncated Poisson sampling of `dataset_size` units.

    Guarantees:
      - Before truncation every unit is in a step's batch with probability
        `expected_batch_size / dataset_size`, independently of the others and of all other steps.
      - A batch above `truncated_batch_size` is cut to a uniform subset of that size.
      - The batch is the same for the same key and step, on any host and after any restart
        (within one NumPy version, whose name the run records).

    Args:
      key: Secret; `KEY_BITS` random bits. It is not shown in `repr`.
    """

    dataset_size: int
    expected_batch_size: int
    truncated_batch_size: int
    key: int = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.expected_batch_size <= self.dataset_size:
            raise InputError(
                "expected_batch_size",
                f"expected a number in [1, dataset_size={self.dataset_size}], "
                f"found {self.expected_batch_size}.",
            )

    @property
    def sampling_prob(self) -> float:
        """q, the probability of one unit to be in one batch."""
        return self.expected_batch_size / self.dataset_size

    def num_drawn(self, step: int) -> int:
        """Size of the batch of `step` (0-based) before truncation. NOT PRIVATE."""
        return self._drawn(self._generator(step))

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Indices of the units in the batch of `step` (0-based), truncated. NOT PRIVATE."""
        generator = self._generator(step)
        # The order of `choice` is uniformly random, so that the first ones are a uniform subset.
        indices = generator.choice(self.dataset_size, size=self._drawn(generator), replace=False)
        return indices[: self.truncated_batch_size].astype(np.int64)

    def _drawn(self, generator: np.random.Generator) -> int:
        return int(generator.binomial(self.dataset_size, self.sampling_prob))

    def _generator(self, step: int) -> np.random.Generator:
        # The step is the counter's highest word, and a step draws from the lowest up: the
        # streams of different steps cannot meet.
        counter = np.array([0, 0, 0, step], np.uint64)
        return np.random.Generator(np.random.Philox(key=self.key, counter=counter))
