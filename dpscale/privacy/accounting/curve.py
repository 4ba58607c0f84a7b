"""The (epsilon, delta) curve of a mechanism, a point at a time.

One mechanism has a whole curve of guarantees: for every delta a least epsilon. `PrivacyCurve`
works out the points that are asked for, and remembers what they share; `table` picks a few that
show its shape. Epsilons are those of `accountant.py`: certified where they can be, and
dp_accounting's where a cap bites, there all from one grid.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from dpscale.privacy.accounting import pld
from dpscale.privacy.accounting.certified.curve import direction_delta
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.interval import delta_interval, epsilon_interval
from dpscale.privacy.accounting.certified.loss import StepLoss
from dpscale.privacy.accounting.certified.total_variation import total_variation_bound
from dpscale.privacy.accounting.certified.truncated import log_overflow_bound, slack
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

if TYPE_CHECKING:
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

DECADES_BEYOND: Final = 2
"""How far below the delta that was asked about the table goes, in powers of ten."""

BEARABLE_SLACK: Final = 0.01
"""A cap may add this share to the total variation; beyond it dp_accounting's is asked for."""


@dataclass(frozen=True)
class CurvePoint:
    """The mechanism is (`epsilon_upper`, `delta`)-private.

    Attributes:
      delta: In (0, 1).
      epsilon_upper: The true epsilon is at most this; None where no bound is to be had.
      epsilon_lower: It is at least this; None where no such bound is known.
      is_certified: Whether every error of the computation is bounded and added.
    """

    delta: float
    epsilon_lower: float | None
    epsilon_upper: float | None
    is_certified: bool


@dataclass(frozen=True)
class TotalVariation:
    """Delta at epsilon 0: between `lower` (None where no such bound is known) and `upper`."""

    lower: float | None
    upper: float
    is_certified: bool


@dataclass(frozen=True)
class PrivacyCurve:
    """The curve of one mechanism.

    Attributes:
      mechanism: What is accounted for.
      delta: The delta that matters most: dp_accounting's grid, where one is needed, is settled
        there.
    """

    mechanism: SubsampledGaussian
    delta: float

    def __post_init__(self) -> None:
        check_budget(delta=self.delta)

    def point(self, delta: float) -> CurvePoint:
        """The epsilon at one delta.

        Raises:
          InputError: `delta` is out of range.
        """
        check_budget(delta=delta)
        if self.mechanism.iterations == 0:
            return CurvePoint(delta, 0.0, 0.0, is_certified=True)
        try:
            interval = epsilon_interval(self.mechanism, delta=delta)
        except NoCertifiedInterval:
            if not self._is_capped:
                return CurvePoint(delta, None, None, is_certified=False)
            upper = float(self._on_grid.get_epsilon(delta))
            known = upper if math.isfinite(upper) else None
            return CurvePoint(delta, None, known, is_certified=False)
        return CurvePoint(delta, interval.lower, interval.upper, is_certified=True)

    @cached_property
    def total_variation(self) -> TotalVariation:
        """Delta at epsilon 0, where the curve ends: the total variation of neighbours' outputs."""
        if self.mechanism.iterations == 0:
            return TotalVariation(0.0, 0.0, is_certified=True)
        lower, upper = _uncut_total_variation(self.mechanism)
        if not self._is_capped:
            return TotalVariation(lower, upper, is_certified=True)
        cost = slack(log_overflow_bound(self.mechanism), 0.0)
        if cost <= BEARABLE_SLACK * upper:
            return TotalVariation(max(lower - cost, 0.0), min(upper + cost, 1.0), is_certified=True)
        return TotalVariation(
            None, min(float(self._on_grid.get_delta(0.0)), 1.0), is_certified=False
        )

    def table(self) -> tuple[CurvePoint, ...]:
        """Points at the powers of ten from the end of the curve to beyond `delta`, and at it.

        Deltas fall. Those at which epsilon is 0 are left out (`total_variation` says where they
        begin), except `delta` itself.
        """
        last = math.floor(math.log10(self.delta)) - DECADES_BEYOND
        powers = {float(f"1e{power}") for power in range(-1, last - 1, -1)}
        start = self.total_variation.upper
        deltas = {delta for delta in powers if delta < start} | {self.delta}
        return tuple(self.point(delta) for delta in sorted(deltas, reverse=True))

    @cached_property
    def _is_capped(self) -> bool:
        return log_overflow_bound(self.mechanism) > -math.inf

    @cached_property
    def _on_grid(self) -> "PLDAccountant":
        interval = pld.settled_epsilon(self.mechanism, delta=self.delta)[1]
        return pld.composed_on_grid(self.mechanism, interval=interval)


def _uncut_total_variation(mechanism: SubsampledGaussian) -> tuple[float, float]:
    """Bounds on delta at epsilon 0 without a cap.

    Both directions have the same total variation, so that one inversion will do, and the simple
    bound tells it where to look.
    """
    if mechanism.sampling_prob == 1 or mechanism.iterations == 1:
        closed = delta_interval(replace(mechanism, truncated_batch_size=None), epsilon=0.0)
        return closed.lower, min(closed.upper, 1.0)
    q, sigma = mechanism.sampling_prob, mechanism.noise_multiplier
    simple = min(1.0, total_variation_bound(q, sigma, mechanism.iterations))
    step = StepLoss(q, sigma, "remove")
    try:
        with np.errstate(over="ignore", under="ignore"):
            lower, upper = direction_delta(step, mechanism.iterations, 0.0, start=simple / 2)
    except NoCertifiedInterval:
        return 0.0, simple
    return lower, min(upper, simple)
