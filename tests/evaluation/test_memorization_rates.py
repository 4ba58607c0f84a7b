"""Intervals and tests against closed forms and published numbers."""

from math import comb

import numpy as np
import pytest

from dpscale.evaluation.memorization_rates import compare, rate_of


def rate(matches, num_units):
    return rate_of(np.arange(num_units) < matches)


@pytest.mark.parametrize("num_units", [1, 20, 1000])
def test_no_match_still_allows_a_rate(num_units):
    """Catches a zero that is given as certain, or a one-sided bound (0.05 for 0.025)."""
    found = rate(0, num_units)
    assert (found.rate, found.lower) == (0.0, 0.0)
    assert found.upper == pytest.approx(1 - 0.025 ** (1 / num_units), rel=1e-9)


def test_the_bounds_leave_a_fortieth_on_each_side():
    """Catches another interval than Clopper and Pearson's, by the binomial sums it solves."""
    found = rate(3, 17)

    def at_least(matches, p):
        return sum(comb(17, k) * p**k * (1 - p) ** (17 - k) for k in range(matches, 18))

    assert at_least(3, found.lower) == pytest.approx(0.025, rel=1e-6)
    assert 1 - at_least(4, found.upper) == pytest.approx(0.025, rel=1e-6)


def test_no_unit_has_no_rate():
    """Catches a default number for a rate that was not measured."""
    assert rate(0, 0).rate is None
    assert compare(rate(1, 2), rate(0, 0)) is None


@pytest.mark.parametrize(
    ("train", "held_out", "interval"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 10), (-0.2775, 0.2775)),
        ((10, 10), (0, 20), (0.6791, 1.0000)),
    ],
)
def test_differences_are_newcombes(train, held_out, interval):
    """Catches bounds that are swapped between the two rates: Newcombe 1998, table II, method 10."""
    found = compare(rate(*train), rate(*held_out))
    assert (round(found.lower, 4), round(found.upper, 4)) == interval


def test_the_p_value_is_the_hypergeometric_tail():
    """Catches the wrong tail: many matches on held-out units must not look like memorization."""
    # 6 matches among 8 + 9 units: the chance that at least 5 of them are training units.
    tail = sum(comb(8, k) * comb(9, 6 - k) for k in (5, 6)) / comb(17, 6)
    assert compare(rate(5, 8), rate(1, 9)).p_value == pytest.approx(tail, rel=1e-9)
    assert compare(rate(0, 8), rate(6, 9)).p_value == pytest.approx(1.0)
