"""Epsilon of the subsampled Gaussian by dp_accounting's privacy-loss-distribution accountant.

The accountant works on a grid of privacy losses and rounds pessimistically, so that epsilon
is an upper bound on every grid and falls as the grid gets finer, up to the round-off of its
Fourier transforms (which grows with T: at 1e5 iterations about 1 % was seen). The grid is
refined until epsilon has settled.
"""

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from dpscale.errors import InputError
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

if TYPE_CHECKING:
    from dp_accounting.pld import pld_privacy_accountant

ACCOUNTANT: Final = "dp_accounting PLDAccountant"
SETTLED: Final = 1e-3
"""A grid is fine enough when it lowers epsilon, against one four times coarser, by less than
this share; what is left is then at most a third of it, and usually a fifteenth."""

COARSEST_INTERVAL: Final = 1e-2
FINEST_INTERVAL: Final = 1e-2 / 4**6
MOST_GRID_POINTS: Final = 2e6
"""A bound on the grid of one step: memory and time grow in proportion (some 100 B a point)."""


def epsilon(mechanism: SubsampledGaussian, *, delta: float) -> float:
    """The epsilon that `mechanism` spends at `delta`: an upper bound, settled to 0.03 %.

    Args:
      delta: In (0, 1).

    Raises:
      InputError: `delta` is out of range, or so little noise that no grid of bearable size
        holds the privacy loss (epsilon would be in the thousands).
    """
    check_budget(delta=delta)
    if mechanism.iterations == 0:
        return 0.0
    return settled_epsilon(mechanism, delta=delta)[0]


def settled_epsilon(mechanism: SubsampledGaussian, *, delta: float) -> tuple[float, float]:
    """Epsilon, and the interval of the grid it was settled on."""
    # The error of a grid grows with the number of steps: start finer where there are many.
    start = COARSEST_INTERVAL / max(1.0, math.sqrt(mechanism.iterations) / 100)
    interval = max(start, finest_bearable_interval(mechanism))
    value = epsilon_on_grid(mechanism, delta=delta, interval=interval)
    while value > 0 and interval / 4 >= finest_bearable_interval(mechanism):
        interval /= 4
        finer = min(value, epsilon_on_grid(mechanism, delta=delta, interval=interval))
        if value - finer <= SETTLED * value:
            return finer, interval
        value = finer
    return value, interval


def epsilon_on_grid(mechanism: SubsampledGaussian, *, delta: float, interval: float) -> float:
    """Epsilon with a given grid interval (in units of privacy loss)."""
    return float(composed_on_grid(mechanism, interval=interval).get_epsilon(delta))


def composed_on_grid(
    mechanism: SubsampledGaussian, *, interval: float
) -> "pld_privacy_accountant.PLDAccountant":
    """dp_accounting's accountant, with the mechanism composed on a grid of that interval."""
    import dp_accounting
    from dp_accounting.pld import pld_privacy_accountant

    relations = {
        "zero-out": dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
        "add-or-remove": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    }
    accountant = pld_privacy_accountant.PLDAccountant(
        relations[mechanism.neighboring_relation], interval
    )
    # Where the first masses of a grid are denormal numbers, the Chernoff bounds that it is cut
    # by overflow; dp_accounting passes over those that are not finite.
    with np.errstate(over="ignore"):
        accountant.compose(mechanism.event())
    return accountant


def finest_bearable_interval(mechanism: SubsampledGaussian) -> float:
    """The finest grid interval whose single-step grid stays below `MOST_GRID_POINTS`.

    The loss of one step spans about 1/(2σ²) + 10/σ to both sides (10σ holds all but e^-50
    of the noise); a truncated batch doubles the sensitivity of the rare cut batches.
    """
    sigma = mechanism.noise_multiplier / (1 if mechanism.truncated_batch_size is None else 2)
    span = 2 * (1 / (2 * sigma**2) + 10 / sigma)
    if span > MOST_GRID_POINTS:
        raise InputError(
            "noise_multiplier",
            f"{mechanism.noise_multiplier} is too little noise to account for: epsilon would "
            "be in the thousands; expected about 0.01 or more.",
        )
    return max(FINEST_INTERVAL, span / MOST_GRID_POINTS)
