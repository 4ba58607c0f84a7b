"""Bounds on delta at a given epsilon, for T steps in one direction: points of the privacy curve."""

import math
from typing import Final

from dpscale.privacy.accounting.certified.composition import (
    COARSE,
    FINE,
    SMALLEST_SHARE,
    Composed,
    Place,
    inverted,
)
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.loss import StepLoss

WIDTH: Final = 2e-3
"""About the width of the interval, as a share of delta."""

LEAST_DELTA: Final = 1e-250


def direction_delta(
    step: StepLoss, iterations: int, epsilon: float, *, start: float
) -> tuple[float, float]:
    """Bounds on delta at epsilon ≥ 0 in one direction.

    How much of the line is kept, and how fine the smoothing is, depend on delta: coarse
    inversions find it first, from `start`, a guess that may be far off.

    Raises:
      NoCertifiedInterval: No inversion within the promised work is accurate enough, or delta is
        below 1e-250.
    """
    if epsilon >= step.largest_loss * iterations * (1 + 1e-12):
        return 0.0, 0.0
    delta, place = start, Place(epsilon, split=False)
    for _ in range(8):
        composed = Composed(step, iterations, delta)
        inversion, split = inverted(composed, place, *COARSE)
        found, place = inversion.delta_estimate(epsilon), Place(epsilon, split)
        if not found > LEAST_DELTA:
            # All that is certain is the upper bound, mostly from what lies outside the span.
            return _in_order(0.0, inversion.delta_upper(epsilon))
        if abs(math.log(found / delta)) < 1:
            break
        delta = min(found, 0.5)
    scale = max(epsilon, SMALLEST_SHARE * composed.spread)
    width_share = min(WIDTH / (inversion.order * scale), 0.1)
    fine, _ = inverted(composed, place, width_share, FINE[1])
    return _in_order(fine.delta_lower(epsilon), fine.delta_upper(epsilon))


def _in_order(lower: float, upper: float) -> tuple[float, float]:
    """Both bounds, if they are numbers that can both be true."""
    if not 0 <= lower <= upper:
        raise NoCertifiedInterval(f"the bounds on delta, {lower} and {upper}, cannot both hold.")
    return lower, min(upper, 1.0)
