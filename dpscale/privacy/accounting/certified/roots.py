"""From bounds on delta to bounds on epsilon."""

import math
from collections.abc import Callable

from scipy.optimize import brentq

from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.inversion import Inversion


def epsilon_bounds(inversion: Inversion, delta: float, start: float) -> tuple[float, float]:
    """An interval on epsilon at delta.

    Delta falls as epsilon grows. So where the upper bound on delta is at most delta, epsilon is
    at most that; where the lower one is at least delta, epsilon is at least that. Both are seen
    to hold at the very values returned, whatever the root finder did.
    """
    scale = max(abs(start), inversion.kernel.shift)
    upper = _root(inversion.delta_upper, delta, start, inversion.order)
    upper = _settled(lambda at: inversion.delta_upper(at) <= delta, upper, scale)
    below = upper - inversion.kernel.shift
    lower = _root(inversion.delta_lower, delta, below, inversion.order)
    lower = _settled(lambda at: inversion.delta_lower(at) >= delta, lower, -scale)
    return max(lower, 0.0), max(upper, 0.0)


def estimated_epsilon(inversion: Inversion, delta: float, start: float) -> float:
    """About epsilon at delta; below 0 where delta(0) is less than delta."""
    return _root(inversion.delta_estimate, delta, start, inversion.order)


def _root(delta_at: Callable[[float], float], delta: float, start: float, order: float) -> float:
    """Where a decreasing function of epsilon passes `delta`, near `start`."""

    def excess(epsilon: float) -> float:
        value = delta_at(epsilon)
        if math.isnan(value):
            raise NoCertifiedInterval("a bound on delta is not a number.")
        return math.log(max(value, 1e-320)) - math.log(delta)

    stride = max(1e-3 / order, 1e-12)
    above = excess(start) > 0
    here = start
    for _ in range(60):
        there = here + stride if above else here - stride
        if (excess(there) > 0) != above:
            precise = 1e-9 * max(abs(there), 1e-3 * stride)
            return float(brentq(excess, min(here, there), max(here, there), xtol=precise))
        here, stride = there, 2.5 * stride
    raise NoCertifiedInterval("epsilon could not be bracketed.")


def _settled(holds: Callable[[float], bool], root: float, scale: float) -> float:
    """The nearest of a few values on one side of `root` for which `holds`."""
    for share in (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4):
        value = root + share * scale
        if holds(value):
            return value
    raise NoCertifiedInterval("the bound on delta is not smooth enough to solve.")
