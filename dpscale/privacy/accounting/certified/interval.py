"""A certified interval on epsilon at delta, and on delta at epsilon.

    epsilon_interval(mechanism, delta=1e-6)  ->  EpsilonInterval(lower, upper)
    delta_interval(mechanism, epsilon=2.0)   ->  DeltaInterval(lower, upper)

The true epsilon of the mechanism (the least at which it is (epsilon, delta)-private, against the
neighbours that it names) lies between the two. How: `docs/accounting.md`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from dpscale.errors import InputError
from dpscale.privacy.accounting.certified.composition import Composed, direction_interval
from dpscale.privacy.accounting.certified.curve import LEAST_DELTA, direction_delta
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.gaussian import (
    bracketed_epsilon,
    gaussian_delta,
    relative_error,
    step_delta,
)
from dpscale.privacy.accounting.certified.loss import Direction, StepLoss
from dpscale.privacy.accounting.certified.truncated import log_overflow_bound, slack
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

WIDEST_SHARE: Final = 5e-3
WIDEST: Final = 1e-4
"""An interval wider than both, as a share of epsilon and in units of it, is not handed out."""

RESERVED_SHARE: Final = 1e-6
"""The share of delta that is set aside for a cap at first; mostly far more than it needs."""

MOST_RESERVES: Final = 12

DIRECTIONS: Final[tuple[Direction, ...]] = ("remove", "add")


@dataclass(frozen=True)
class DeltaInterval:
    """The true delta is at least `lower` and at most `upper`."""

    lower: float
    upper: float


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
    _check_iterations(mechanism)
    log_overflow = log_overflow_bound(mechanism)

    def uncut(at: float) -> EpsilonInterval:
        return untruncated_interval(
            mechanism.sampling_prob, mechanism.noise_multiplier, mechanism.iterations, at
        )

    if log_overflow == -math.inf:
        return uncut(delta)
    upper = _upper_with_cap(uncut, log_overflow, delta)
    # Epsilon is at most `upper`, and the slack grows with it.
    more = delta + slack(log_overflow, upper)
    return EpsilonInterval(uncut(more).lower if more < 1 else 0.0, upper)


def delta_interval(mechanism: SubsampledGaussian, *, epsilon: float) -> DeltaInterval:
    """Bounds on the delta at which `mechanism` is private for `epsilon`: a point of its curve.

    Guarantee: the true delta lies within them, about 0.5 % apart where delta is above 1e-20.

    Args:
      mechanism: At least one iteration.
      epsilon: A finite number, at least 0.

    Raises:
      InputError: A number out of range.
      NoCertifiedInterval: No interval within the promised work.
    """
    if not 0 <= epsilon < math.inf:
        raise InputError("epsilon", f"expected a finite number of at least 0, found {epsilon}.")
    _check_iterations(mechanism)
    lower, upper = _uncut_delta(mechanism, epsilon)
    log_overflow = log_overflow_bound(mechanism)
    if log_overflow == -math.inf:
        return DeltaInterval(lower, upper)
    cost = slack(log_overflow, epsilon)
    return DeltaInterval(max(lower - cost, 0.0), min(upper + cost, 1.0))


def _uncut_delta(mechanism: SubsampledGaussian, epsilon: float) -> tuple[float, float]:
    q, sigma = mechanism.sampling_prob, mechanism.noise_multiplier
    iterations = mechanism.iterations
    if q == 1 or iterations == 1:
        mu = math.sqrt(iterations) / sigma
        delta = gaussian_delta(epsilon, mu) if q == 1 else step_delta(epsilon, q, sigma)
        error = relative_error(mu)
        return delta * (1 - error), min(delta * (1 + error), 1.0)
    lower, upper, start = 0.0, 0.0, 1e-9
    try:
        with np.errstate(over="ignore", under="ignore"):
            for direction in DIRECTIONS:
                step = StepLoss(q, sigma, direction)
                low, high = direction_delta(step, iterations, epsilon, start=start)
                lower, upper, start = max(lower, low), max(upper, high), max(low, 1e-100)
    except NoCertifiedInterval as failure:
        raise NoCertifiedInterval(f"no certified delta at epsilon {epsilon}: {failure}") from None
    return lower, upper


def _upper_with_cap(
    uncut: Callable[[float], EpsilonInterval], log_overflow: float, delta: float
) -> float:
    """An epsilon at which delta without the cap and the cap's slack are together at most delta.

    Raises:
      NoCertifiedInterval: The slack alone exceeds delta.
    """
    reserved = RESERVED_SHARE * delta
    for _ in range(MOST_RESERVES):
        upper = uncut(delta - reserved).upper
        needed = slack(log_overflow, upper)
        if needed <= reserved:
            return upper
        reserved = 1.01 * needed
        if reserved >= 0.9 * delta:
            break
    raise NoCertifiedInterval(
        "truncated_batch_size: batches exceed the cap too often for a certified interval; "
        "expected a larger cap."
    )


def _check_iterations(mechanism: SubsampledGaussian) -> None:
    if mechanism.iterations < 1:
        raise InputError("iterations", f"expected at least 1, found {mechanism.iterations}.")


def untruncated_interval(
    sampling_prob: float, noise_multiplier: float, iterations: int, delta: float
) -> EpsilonInterval:
    """The interval for batches without a cap."""
    setting = (
        f"no certified epsilon for sampling_prob {sampling_prob:.6g}, noise_multiplier "
        f"{noise_multiplier:.6g}, iterations {iterations}, delta {delta:.6g}"
    )
    if delta < LEAST_DELTA:
        raise NoCertifiedInterval(f"{setting}: expected a delta of at least {LEAST_DELTA}.")
    if sampling_prob == 1 or iterations == 1:
        return _closed_interval(sampling_prob, noise_multiplier, iterations, delta)
    try:
        interval = _composed_interval(sampling_prob, noise_multiplier, iterations, delta)
    except NoCertifiedInterval as failure:
        raise NoCertifiedInterval(f"{setting}: {failure}") from None
    # Not `width > ...`, which a number that is none would pass.
    if not 0 <= interval.width <= max(WIDEST_SHARE * interval.upper, WIDEST):
        ends = f"[{interval.lower:.6g}, {interval.upper:.6g}]"
        raise NoCertifiedInterval(f"{setting}: the interval {ends} is wider than promised.")
    return interval


def _closed_interval(
    sampling_prob: float, noise_multiplier: float, iterations: int, delta: float
) -> EpsilonInterval:
    """The interval where delta has a closed form: full batches, or one step."""
    mu = math.sqrt(iterations) / noise_multiplier

    def delta_at(epsilon: float) -> float:
        if sampling_prob == 1:
            return gaussian_delta(epsilon, mu)
        return step_delta(epsilon, sampling_prob, noise_multiplier)

    return EpsilonInterval(*bracketed_epsilon(delta_at, delta, relative_error(mu)))


def _composed_interval(
    sampling_prob: float, noise_multiplier: float, iterations: int, delta: float
) -> EpsilonInterval:
    """The interval by inversion: the larger of both directions."""
    lower = upper = 0.0
    # What `remove` has shown saves work: usually `add` lies surely below it.
    with np.errstate(over="ignore", under="ignore"):
        for direction in DIRECTIONS:
            step = StepLoss(sampling_prob, noise_multiplier, direction)
            low, high = direction_interval(Composed(step, iterations, delta), floor=lower)
            lower, upper = max(lower, low), max(upper, high)
    return EpsilonInterval(lower, upper)
