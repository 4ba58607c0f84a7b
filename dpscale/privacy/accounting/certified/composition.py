"""An interval on epsilon for T steps in one direction.

First a place: a saddle-point estimate of epsilon, then coarse inversions, each made where the
last one found epsilon. Then one fine inversion there, whose bounds on delta are solved for
epsilon. A solution counts only after the bound itself has been seen on the right side of delta.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from dpscale.privacy.accounting.certified.building import (
    Aim,
    Runs,
    invert,
    log_share,
    moments,
    outside,
    tilted_order,
    tilted_spread,
)
from dpscale.privacy.accounting.certified.chernoff import log_excess
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.inversion import Inversion
from dpscale.privacy.accounting.certified.kernel import LEAST_SHAPE
from dpscale.privacy.accounting.certified.loss import StepLoss
from dpscale.privacy.accounting.certified.quadrature import Panels, first_panels
from dpscale.privacy.accounting.certified.roots import epsilon_bounds, estimated_epsilon
from dpscale.privacy.accounting.certified.saddle import saddle_point_epsilon
from dpscale.privacy.accounting.certified.search import least_over_positive
from dpscale.privacy.accounting.certified.split import Split, split_by_loss
from dpscale.privacy.accounting.certified.total_variation import total_variation_bound

OUTSIDE_SHARE: Final = 2e-6
"""The share of delta given to losses outside the span."""

COARSE: Final = (0.05, 1e-3)
FINE: Final = (1e-3, 1e-5)
"""Half-width of the smoothing as a share of epsilon, and errors as a share of delta."""

AT_ZERO: Final = (0.5, 1e-4)
"""The same for the inversion that asks whether epsilon is 0."""

WIDENINGS: Final = (
    (1.0, 1.0),
    (2.5, 1.0),
    (4.0, 1.0),
    (6.0, 1.0),
    (2.5, 10.0),
    (25.0, 1.0),
    (100.0, 1.0),
)
"""Factors on the half-width and on the errors that are tried in turn. Where epsilon is tiny all
half-widths are harmless; ten times the errors are still some percent of delta at the most."""

MOST_PLACES: Final = 25

DROWNED: Final = 5e-2
"""Where delta is below this share of its Chernoff bound, the split is worth its cost."""

SMALLEST_SHARE: Final = 0.02
"""Below this many standard deviations of the loss, epsilon is small; widths stop shrinking."""


@dataclass(frozen=True)
class Composed:
    """T steps in one direction, and the delta that is asked about."""

    step: StepLoss
    iterations: int
    delta: float

    @cached_property
    def panels(self) -> Panels:
        """The first panels, over a span that loses a small share of delta in T steps."""
        span = self.step.span(OUTSIDE_SHARE * self.delta / self.iterations)
        return first_panels(self.step, span.low, span.high)

    @cached_property
    def everything(self) -> slice:
        """All of the first panels."""
        return slice(0, len(self.panels.edges) - 1)

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the sum of the losses."""
        return math.sqrt(self.iterations) * moments(self.panels, 0.0, self.everything)[1]

    def surely_zero(self) -> bool:
        """Whether delta(0), a total variation distance, is at most delta."""
        step = self.step
        bound = total_variation_bound(step.sampling_prob, step.noise_multiplier, self.iterations)
        return bound <= self.delta

    def surely_below(self, epsilon: float) -> bool:
        """Whether a Chernoff bound shows that delta(epsilon) is at most delta."""

        def log_bound(order: float) -> float:
            moment = self.panels.log_moment(order, self.everything)
            return self.iterations * moment - order * epsilon + log_excess(order)

        order = least_over_positive(log_bound, 1 / max(self.spread, 1e-150)).at
        moment = self.panels.log_moment_bound(order, self.everything)
        log_delta = self.iterations * moment - order * epsilon + log_excess(order) + 1e-9
        return math.exp(min(log_delta, 0.0)) + outside(self.panels, self.iterations) <= self.delta


@dataclass(frozen=True)
class Place:
    """Where to invert, and whether with a split."""

    epsilon: float
    split: bool


def direction_interval(composed: Composed, *, floor: float) -> tuple[float, float]:
    """Bounds on epsilon at delta in one direction.

    Args:
      floor: A lower bound on the other direction's epsilon: what is surely below does not matter.

    Raises:
      NoCertifiedInterval: No inversion within the promised work is accurate enough.
    """
    if composed.surely_zero() or (floor > 0 and composed.surely_below(floor)):
        return 0.0, floor
    place = located(composed)
    if place is None:
        return 0.0, floor
    inversion, _ = inverted(composed, place, *FINE)
    return epsilon_bounds(inversion, composed.delta, place.epsilon)


def located(composed: Composed) -> Place | None:
    """Where epsilon is, about; None if it is surely zero.

    An inversion tells on which side of its own place epsilon lies, which brackets it, and how
    far away, which is right once it is near.
    """
    smallest = SMALLEST_SHARE * composed.spread
    epsilon = saddle_point_epsilon(composed.panels, composed.iterations, composed.delta)
    place = Place(epsilon if epsilon > 0 else 2.5 * smallest, split=False)
    low, high, tried_zero = 0.0, math.inf, False
    for _ in range(MOST_PLACES):
        inversion, split = inverted(composed, place, *COARSE)
        found = estimated_epsilon(inversion, composed.delta, place.epsilon)
        if abs(found - place.epsilon) < 0.5 / inversion.order:
            return Place(max(found, 0.0), split)
        if inversion.delta_estimate(place.epsilon) > composed.delta:
            low = place.epsilon
        else:
            high = place.epsilon
        if found <= smallest and not tried_zero:
            tried_zero = True
            if _zero_suffices(composed, split):
                return None
        if not low < found < high:
            found = _between(low, high, smallest)
        place = Place(found, split)
    raise NoCertifiedInterval("epsilon could not be located.")


def _between(low: float, high: float, smallest: float) -> float:
    """A place inside a bracket: its geometric middle, or away from the end that is open."""
    if high == math.inf:
        return 2 * low + smallest
    return math.sqrt(max(low, 0.01 * min(high, smallest)) * high)


def _zero_suffices(composed: Composed, split: bool) -> bool:
    """Whether delta(0) is seen to be at most delta."""
    try:
        inversion, _ = inverted(composed, Place(0.0, split), *AT_ZERO)
    except NoCertifiedInterval:
        return False
    return inversion.delta_upper(0.0) <= composed.delta


def inverted(
    composed: Composed, place: Place, width_share: float, precision: float
) -> tuple[Inversion, bool]:
    """An inversion at a place, and whether to split near it; smoothed more if it must be."""
    failure = NoCertifiedInterval("nothing was tried.")
    for widening, loosening in WIDENINGS:
        share, errors = widening * width_share, min(loosening * precision, COARSE[1])
        for split in (place.split, not place.split):
            try:
                return _inverted(composed, place.epsilon, split, share, errors)
            except NoCertifiedInterval as error:
                failure = error
    raise failure


def _inverted(
    composed: Composed, epsilon: float, split: bool, width_share: float, precision: float
) -> tuple[Inversion, bool]:
    panels, iterations, delta = composed.panels, composed.iterations, composed.delta
    parts = Split()
    if split:
        negligible = 0.3 * precision * delta
        parts = split_by_loss(panels, iterations, epsilon=epsilon, negligible=negligible)
    runs = Runs(panels, parts, iterations)
    order = tilted_order(runs, epsilon)
    aim = Aim(epsilon, delta, _half_width(runs, order, epsilon, composed, width_share), precision)
    inversion = invert(runs, order, aim)
    return inversion, split or log_share(runs, order, aim) < math.log(DROWNED)


def _half_width(
    runs: Runs, order: float, epsilon: float, composed: Composed, width_share: float
) -> float:
    """The half-width of the smoothing: its share of epsilon, where that does not do harm.

    Smoothing raises delta by about λ(1 + λ) a²/(2β) of itself: kept below some 1e-5 λε.
    """
    scale = max(epsilon, SMALLEST_SHARE * composed.spread)
    return min(
        width_share * scale,
        0.3 * max(tilted_spread(runs, order), composed.spread),
        math.sqrt(4e-5 * LEAST_SHAPE * scale / (1 + order)),
        2 / order,
    )
