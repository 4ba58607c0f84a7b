"""Rates of memorization with their intervals, and how two of them compare.

Units are drawn without replacement; the binomial intervals here are then a little wider than
they need be. Units cut from one document are alike, which the intervals know nothing of.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, fisher_exact

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """A share of units, with its 95 % interval by Clopper and Pearson (Biometrika 1934).

    `rate`, `lower` and `upper` are in [0, 1]; None where there is no unit.
    """

    matches: int
    num_units: int
    rate: float | None
    lower: float | None
    upper: float | None


def rate_of(is_match: npt.NDArray[np.bool_]) -> Rate:
    """The share of True.

    >>> round(rate_of(np.zeros(20, bool)).upper, 4)
    0.1684
    """
    matches, num_units = int(is_match.sum()), len(is_match)
    if num_units == 0:
        return Rate(0, 0, None, None, None)
    interval = binomtest(matches, num_units).proportion_ci(CONFIDENCE, method="exact")
    return Rate(matches, num_units, matches / num_units, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class MatchRates:
    """Shares of units whose continuation came out exactly, and approximately.

    An exact match is an approximate one too.
    """

    exact: Rate
    approximate: Rate


@dataclass(frozen=True)
class RateComparison:
    """How much more often training units match than held-out ones.

    `difference`, of rates, has a 95 % interval by Newcombe's hybrid score method (Statistics in
    Medicine 1998, method 10). `p_value` is that of Fisher's exact test, one-sided: how likely
    so many of the matches fell to training units, were both kinds matched alike.
    """

    difference: float
    lower: float
    upper: float
    p_value: float


def compare(train: Rate, held_out: Rate) -> RateComparison | None:
    """Compares two rates; None where one of them has no unit.

    >>> found = compare(rate_of(np.arange(10) < 9), rate_of(np.arange(10) < 3))
    >>> round(found.difference, 4), round(found.lower, 4), round(found.upper, 4)
    (0.6, 0.1705, 0.809)
    """
    if train.rate is None or held_out.rate is None:
        return None
    low, high = _wilson(train)
    held_out_low, held_out_high = _wilson(held_out)
    difference = train.rate - held_out.rate
    matches = np.array([train.matches, held_out.matches])
    table = np.stack([matches, np.array([train.num_units, held_out.num_units]) - matches])
    return RateComparison(
        difference=difference,
        lower=difference - math.hypot(train.rate - low, held_out_high - held_out.rate),
        upper=difference + math.hypot(high - train.rate, held_out.rate - held_out_low),
        p_value=float(fisher_exact(table, alternative="greater").pvalue),
    )


def _wilson(rate: Rate) -> tuple[float, float]:
    interval = binomtest(rate.matches, rate.num_units).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
