"""A certified interval on epsilon at delta.

    epsilon_interval(mechanism, delta=1e-6)  ->  EpsilonInterval(lower, upper)

The true epsilon of the mechanism (the least at which it is (epsilon, delta)-private, against the
neighbours that it names) lies between the two. How: `docs/accounting.md`.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dpscale.errors import InputError
from dpscale.privacy.accounting.certified.composition import Composed, direction_interval
from dpscale.privacy.accounting.certified.gaussian import (
    bracketed_epsilon,
    gaussian_delta,
    step_delta,
)
from dpscale.privacy.accounting.certified.loss import StepLoss
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

LARGEST_EPSILON: Final = 1000.0
"""Above that no interval is promised."""


@dataclass(frozen=True)
class EpsilonInterval:
    """The true epsilon is at least `lower` and at most `upper`."""

    lower: float
    upper: float

    @property
    def width(self) -> float:
        """`upper - lower`, in units of epsilon."""
        return self.upper - self.lower


def epsilon_interval(mechanism: SubsampledGaussian, *, delta: float) -> EpsilonInterval:
    """Bounds on the epsilon that `mechanism` spends at `delta`.

    Guarantee: the true epsilon lies within them (what that rests on: `docs/accounting.md`).

    Args:
      mechanism: At least one iteration; zero-out and add-or-remove neighbours.
      delta: In (0, 1).

    Raises:
      InputError: A number out of range.
      NoCertifiedInterval: No interval within the promised work.
    """
    check_budget(delta=delta)
    if mechanism.iterations < 1:
        raise InputError("iterations", f"expected at least 1, found {mechanism.iterations}.")
    return untruncated_interval(
        mechanism.sampling_prob, mechanism.noise_multiplier, mechanism.iterations, delta
    )


def untruncated_interval(
    sampling_prob: float, noise_multiplier: float, iterations: int, delta: float
) -> EpsilonInterval:
    """The interval for batches without a cap."""
    if sampling_prob == 1:
        mu = math.sqrt(iterations) / noise_multiplier
        return EpsilonInterval(*bracketed_epsilon(lambda at: gaussian_delta(at, mu), delta))
    if iterations == 1:
        return EpsilonInterval(
            *bracketed_epsilon(lambda at: step_delta(at, sampling_prob, noise_multiplier), delta)
        )
    lower = upper = 0.0
    # The two directions bound each other's work: usually `add` lies surely below `remove`.
    with np.errstate(over="ignore", under="ignore"):
        for direction in ("remove", "add"):
            step = StepLoss(sampling_prob, noise_multiplier, direction)
            low, high = direction_interval(Composed(step, iterations, delta), floor=lower)
            lower, upper = max(lower, low), max(upper, high)
    return EpsilonInterval(lower, upper)
