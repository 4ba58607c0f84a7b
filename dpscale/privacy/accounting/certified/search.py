"""Minima of functions with one valley, over a positive variable."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scipy.optimize import minimize_scalar

LOG_OF_ZERO: Final = -750.0
"""e^-750 is 0 in double precision."""


@dataclass(frozen=True)
class Minimum:
    """Where a function is least, about, and exactly what it is there."""

    at: float
    value: float


def least_over_positive(
    function: Callable[[float], float], start: float, *, tolerance: float = 1e-3
) -> Minimum:
    """The least of `function` over positive numbers, to `tolerance` in the logarithm.

    Every use bounds something by e^value at *some* point, so that a poor minimum costs tightness
    only, and where that is 0 to double precision the search ends.
    """

    def of_log(log_x: float) -> float:
        value = function(math.exp(log_x))
        return math.inf if math.isnan(value) else value

    best, value = math.log(start), of_log(math.log(start))
    stride = 0.5 if of_log(best + 0.5) <= value else -0.5
    while value > LOG_OF_ZERO and (further := of_log(best + stride)) < value:
        best, value, stride = best + stride, further, 1.3 * stride
    bounds = (best - abs(stride), best + abs(stride))
    found = minimize_scalar(
        of_log, bounds=bounds, method="bounded", options={"xatol": tolerance, "maxiter": 60}
    )
    if found.fun < value:
        best, value = float(found.x), float(found.fun)
    return Minimum(math.exp(best), value)
