"""What the interval promises: width, agreement with other accountants, order, refusals."""

import dataclasses
import math

import mpmath
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.stats import binom

from dpscale.errors import InputError
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.interval import (
    EpsilonInterval,
    delta_interval,
    epsilon_interval,
    untruncated_interval,
)
from dpscale.privacy.accounting.certified.truncated import log_overflow_bound, slack
from dpscale.privacy.accounting.pld import epsilon_on_grid
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

VAULTGEMMA = SubsampledGaussian(
    dataset_size=12_695_312_500,
    expected_batch_size=517_989,
    iterations=100_000,
    noise_multiplier=0.614,
)
SMALL = SubsampledGaussian(
    dataset_size=62_000, expected_batch_size=256, iterations=200, noise_multiplier=0.5
)


def test_vaultgemma_is_narrow() -> None:
    interval = epsilon_interval(VAULTGEMMA, delta=1.1e-10)
    assert interval.width <= 2e-3 * interval.upper
    # 1.977 to 2.020 is what grids give there, depending on parts per million of N.
    assert 1.70 < interval.lower < interval.upper < 1.72


def test_vaultgemma_is_smooth_in_the_dataset_size() -> None:
    # Catches: round-off times T that makes epsilon jump with parts per million of N.
    base = epsilon_interval(VAULTGEMMA, delta=1.1e-10)
    for change in (-12_695, 12_695):
        run = dataclasses.replace(VAULTGEMMA, dataset_size=12_695_312_500 + change)
        near = epsilon_interval(run, delta=1.1e-10)
        assert near.upper == pytest.approx(base.upper, rel=1e-4)
        assert near.lower == pytest.approx(base.lower, rel=1e-4)


@pytest.mark.parametrize(
    ("sigma", "iterations", "delta"),
    [(1.0, 1, 1e-6), (5.0, 10, 1e-10), (100.0, 3, 1e-12), (3e5, 1, 1e-9), (0.3, 7, 1e-3)],
)
def test_full_batches_are_one_gaussian(sigma: float, iterations: int, delta: float) -> None:
    interval = untruncated_interval(1.0, sigma, iterations, delta)
    with mpmath.workdps(40):
        mu = mpmath.sqrt(iterations) / mpmath.mpf(sigma)

        def exact(epsilon: mpmath.mpf) -> mpmath.mpf:
            second = mpmath.exp(epsilon) * mpmath.ncdf(-epsilon / mu - mu / 2)
            return mpmath.ncdf(mu / 2 - epsilon / mu) - second

        if exact(mpmath.mpf(0)) <= delta:
            assert interval == EpsilonInterval(0.0, 0.0)
            return
        truth = mpmath.findroot(lambda e: mpmath.log(exact(e) / delta), interval.upper)
        assert interval.lower <= truth <= interval.upper
        assert interval.width <= 1e-9 * float(truth)


@pytest.mark.parametrize(
    ("sigma", "batch", "iterations"), [(1.0, 1000, 100), (2.0, 5000, 1000), (0.7, 100, 50)]
)
@pytest.mark.parametrize("relation", ["zero-out", "add-or-remove"])
def test_grids_of_losses_agree(sigma: float, batch: int, iterations: int, relation: str) -> None:
    run = SubsampledGaussian(
        dataset_size=50_000,
        expected_batch_size=batch,
        iterations=iterations,
        noise_multiplier=sigma,
        neighboring_relation=relation,
    )
    interval = epsilon_interval(run, delta=1e-6)
    on_grid = epsilon_on_grid(run, delta=1e-6, interval=3e-4)
    assert interval.lower * 0.999 <= on_grid <= interval.upper * 1.001


INPUTS = {
    "log_q": st.floats(-5, -0.1),
    "log_sigma": st.floats(-0.5, 1.5),
    "log_iterations": st.floats(0, 5),
    "log_delta": st.floats(-12, -3),
}


def in_order(q: float, sigma: float, iterations: int, delta: float) -> None:
    """More noise or a larger delta costs less; more sampling or iterations cost more.

    Intervals may overlap, but never in the wrong order.
    """
    base = untruncated_interval(q, sigma, iterations, delta)
    assert 0 <= base.lower <= base.upper
    assert untruncated_interval(q, 1.05 * sigma, iterations, delta).lower <= base.upper
    assert untruncated_interval(q, sigma, iterations, 1.2 * delta).lower <= base.upper
    assert untruncated_interval(min(1.0, 1.05 * q), sigma, iterations, delta).upper >= base.lower
    more = iterations + 1 + iterations // 20
    assert untruncated_interval(q, sigma, more, delta).upper >= base.lower


@settings(max_examples=10, deadline=None, derandomize=True)
@given(**INPUTS)
def test_order(log_q: float, log_sigma: float, log_iterations: float, log_delta: float) -> None:
    in_order(10**log_q, 10**log_sigma, round(10**log_iterations), 10**log_delta)


@pytest.mark.deep
@settings(max_examples=150, deadline=None)
@given(
    log_q=st.floats(-9, 0),
    log_sigma=st.floats(math.log10(0.3), 2),
    log_iterations=st.floats(0, 7),
    log_delta=st.floats(-15, -3),
)
def test_order_anywhere(
    log_q: float, log_sigma: float, log_iterations: float, log_delta: float
) -> None:
    try:
        in_order(10**log_q, 10**log_sigma, round(10**log_iterations), 10**log_delta)
    except NoCertifiedInterval:
        reject()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    log_q=st.floats(-9, -1e-3),
    log_sigma=st.floats(math.log10(0.2), 2),
    log_iterations=st.floats(0, 7),
    log_delta=st.floats(-15, -3),
)
def test_anywhere(log_q: float, log_sigma: float, log_iterations: float, log_delta: float) -> None:
    # Catches: NaN, ends in the wrong order, intervals wider than promised, stray exceptions.
    try:
        interval = untruncated_interval(
            10**log_q, 10**log_sigma, round(10**log_iterations), 10**log_delta
        )
    except NoCertifiedInterval:
        return
    assert 0 <= interval.lower <= interval.upper < math.inf
    assert interval.width <= max(5e-3 * interval.upper, 1e-4)


@pytest.mark.parametrize("run", [SMALL, VAULTGEMMA])
@pytest.mark.parametrize("delta", [1e-4, 1e-10])
def test_delta_and_epsilon_agree(run: SubsampledGaussian, delta: float) -> None:
    # Both are about one decreasing curve, so that no end may contradict another.
    interval = epsilon_interval(run, delta=delta)
    assert delta_interval(run, epsilon=interval.lower).upper >= delta
    assert delta_interval(run, epsilon=interval.upper).lower <= delta
    middle = delta_interval(run, epsilon=(interval.lower + interval.upper) / 2)
    assert 0 <= middle.upper - middle.lower <= 6e-3 * middle.upper


def test_delta_at_zero_is_a_total_variation_distance() -> None:
    # Known for T = 1: q (2 Φ(1/(2σ)) − 1).
    run = dataclasses.replace(SMALL, iterations=1)
    exact = run.sampling_prob * math.erf(1 / (math.sqrt(8) * run.noise_multiplier))
    interval = delta_interval(run, epsilon=0.0)
    assert interval.lower <= exact <= interval.upper
    two = delta_interval(dataclasses.replace(SMALL, iterations=2), epsilon=0.0)
    assert exact < two.lower < two.upper < 2 * exact


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, math.inf])
def test_wrong_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(InputError, match="epsilon"):
        delta_interval(SMALL, epsilon=epsilon)


def test_a_cap_that_never_bites_is_free() -> None:
    free = epsilon_interval(SMALL, delta=1e-6)
    capped = epsilon_interval(dataclasses.replace(SMALL, truncated_batch_size=512), delta=1e-6)
    assert capped.upper == pytest.approx(free.upper, rel=1e-5)
    assert capped.lower == pytest.approx(free.lower, rel=1e-5)
    whole = dataclasses.replace(SMALL, truncated_batch_size=SMALL.dataset_size)
    assert epsilon_interval(whole, delta=1e-6) == free


def test_a_cap_that_bites_costs() -> None:
    # Catches: a cap whose cost is left out.
    free = epsilon_interval(SMALL, delta=1e-6)
    capped = epsilon_interval(dataclasses.replace(SMALL, truncated_batch_size=388), delta=1e-6)
    assert capped.upper > free.upper
    assert capped.lower < free.lower


def test_a_cap_that_bites_often_is_refused() -> None:
    with pytest.raises(NoCertifiedInterval, match="truncated_batch_size"):
        epsilon_interval(dataclasses.replace(SMALL, truncated_batch_size=272), delta=1e-6)


def test_a_cap_costs_on_both_sides() -> None:
    # The event that a batch is cut may lower one probability and raise the other.
    for epsilon in (0.0, 2.0, 40.0):
        exact = 1e-20 * (1 + math.exp(epsilon))
        assert exact <= slack(math.log(1e-20), epsilon) <= exact * (1 + 1e-11)


@pytest.mark.parametrize("cap", [256, 300, 400, 61_999])
def test_overflow_is_bounded(cap: int) -> None:
    run = dataclasses.replace(SMALL, truncated_batch_size=cap, iterations=1)
    exact = binom.logsf(cap, 62_000, 256 / 62_000)
    assert exact <= log_overflow_bound(run)
    deviations = (cap + 1 - 256) / 16
    if 1 < deviations < 20:  # a Chernoff bound lacks the tail's factor 1/(√(2π) · deviations)
        lacking = math.log(math.sqrt(2 * math.pi) * deviations)
        assert log_overflow_bound(run) < exact + lacking + 0.2


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan, math.inf])
def test_wrong_delta_is_refused(delta: float) -> None:
    with pytest.raises(InputError, match="delta"):
        epsilon_interval(SMALL, delta=delta)


def test_no_iterations_are_refused() -> None:
    with pytest.raises(InputError, match="iterations"):
        epsilon_interval(dataclasses.replace(SMALL, iterations=0), delta=1e-6)


def test_hopeless_settings_fail_in_one_line() -> None:
    # Catches: memory or time without end for an epsilon in the tens of thousands.
    run = dataclasses.replace(SMALL, noise_multiplier=1e-3)
    with pytest.raises(NoCertifiedInterval) as failure:
        epsilon_interval(run, delta=1e-6)
    assert "\n" not in str(failure.value)
    assert "noise_multiplier 0.001" in str(failure.value)
