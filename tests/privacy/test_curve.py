"""The (epsilon, delta) curve: its points, its end at epsilon 0, and what a cap does to it."""

import dataclasses
import math

import pytest
from scipy.stats import norm

from dpscale.errors import InputError
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.certified.interval import delta_interval
from dpscale.privacy.accounting.certified.total_variation import total_variation_bound
from dpscale.privacy.accounting.certified.truncated import log_overflow_bound, slack
from dpscale.privacy.accounting.curve import PrivacyCurve
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

RUN = SubsampledGaussian(
    dataset_size=10_000, expected_batch_size=1000, iterations=512, noise_multiplier=3.0
)
BITING = dataclasses.replace(RUN, truncated_batch_size=1100)


def test_the_table_falls_in_delta_and_holds_the_one_asked_for() -> None:
    table = PrivacyCurve(RUN, 3e-6).table()
    deltas = [point.delta for point in table]
    assert deltas == [0.1, 0.01, 1e-3, 1e-4, 1e-5, 3e-6, 1e-6, 1e-7, 1e-8]
    uppers = [point.epsilon_upper or 0.0 for point in table]
    assert uppers == sorted(uppers)
    spent = accounted(RUN, delta=3e-6)
    asked = table[5]
    assert (asked.epsilon_lower, asked.epsilon_upper) == (spent.lower, spent.upper)
    assert all(point.is_certified for point in table)


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
def test_points_lie_on_the_gaussians_curve(mu: float) -> None:
    """Catches epsilon and delta of different points: the closed form of theorem 8, 1805.06530."""
    gaussian = SubsampledGaussian(
        dataset_size=9, expected_batch_size=9, iterations=4, noise_multiplier=2 / mu
    )
    for point in PrivacyCurve(gaussian, 1e-5).table():
        epsilon = point.epsilon_upper
        assert epsilon is not None
        second = math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        delta = norm.cdf(mu / 2 - epsilon / mu) - second
        assert delta == pytest.approx(point.delta, rel=1e-6)


def test_deltas_at_which_epsilon_is_zero_are_left_out() -> None:
    table = PrivacyCurve(dataclasses.replace(RUN, noise_multiplier=300.0), 1e-2).table()
    assert [point.delta for point in table] == [0.01, 1e-3, 1e-4]
    assert table[0].epsilon_upper == 0
    assert (table[1].epsilon_lower or 0) > 0


@pytest.mark.parametrize(
    ("batch", "iterations", "sigma"),
    [(1000, 512, 3.0), (10, 20, 0.5), (1, 10_000, 0.4), (5000, 2, 1.0), (10_000, 7, 2.0)],
)
def test_the_total_variation_is_delta_at_zero(batch: int, iterations: int, sigma: float) -> None:
    """Catches a bound from one direction where the other is larger."""
    run = SubsampledGaussian(
        dataset_size=10_000,
        expected_batch_size=batch,
        iterations=iterations,
        noise_multiplier=sigma,
    )
    found, slower = PrivacyCurve(run, 1e-6).total_variation, delta_interval(run, epsilon=0.0)
    assert found.is_certified
    assert found.lower is not None
    assert found.lower <= slower.upper
    assert slower.lower <= found.upper <= 1.005 * found.lower
    assert total_variation_bound(batch / 10_000, sigma, iterations) >= slower.lower


@pytest.mark.parametrize(("batch", "sigma"), [(1000, 0.3), (100, 1.0), (9000, 5.0)])
def test_the_simple_bound_is_reached_by_one_step(batch: int, sigma: float) -> None:
    """Catches a bound that is too small: q (2 Φ(1/2σ) − 1) is one step's total variation."""
    run = SubsampledGaussian(
        dataset_size=10_000, expected_batch_size=batch, iterations=1, noise_multiplier=sigma
    )
    exact = batch / 10_000 * (2 * norm.cdf(1 / (2 * sigma)) - 1)
    assert exact <= total_variation_bound(batch / 10_000, sigma, 1) <= 1.000001 * exact
    assert PrivacyCurve(run, 1e-6).total_variation.upper == pytest.approx(exact, rel=1e-9)


def test_a_cap_that_bites_is_left_to_dp_accounting() -> None:
    """Catches a certified claim for what was not certified."""
    free, capped = PrivacyCurve(RUN, 1e-6), PrivacyCurve(BITING, 1e-6)
    assert not capped.total_variation.is_certified
    assert capped.total_variation.lower is None
    assert capped.total_variation.upper > free.total_variation.upper
    for delta in (1e-2, 1e-6):
        above, below = capped.point(delta), free.point(delta)
        assert not above.is_certified
        assert above.epsilon_lower is None
        assert (above.epsilon_upper or 0) > (below.epsilon_upper or math.inf)
    upper = accounted(BITING, delta=1e-6).upper
    assert capped.point(1e-6).epsilon_upper == pytest.approx(upper, rel=1e-9)


def test_a_cap_that_hardly_bites_costs_its_slack() -> None:
    """Catches a cap that is forgotten, or charged to the wrong epsilon."""
    capped = dataclasses.replace(RUN, truncated_batch_size=1165)
    cost = slack(log_overflow_bound(capped), 0.0)
    free, found = (PrivacyCurve(run, 1e-6).total_variation for run in (RUN, capped))
    assert 1e-4 < cost < 1e-2 * free.upper
    assert found.is_certified
    assert found.upper == pytest.approx(free.upper + cost, rel=1e-12)
    assert found.lower == pytest.approx((free.lower or 0.0) - cost, rel=1e-12)


def test_no_steps_spend_nothing() -> None:
    idle = PrivacyCurve(dataclasses.replace(RUN, iterations=0), 1e-6)
    assert idle.total_variation.upper == 0
    assert [point.epsilon_upper for point in idle.table()] == [0.0]


def test_what_cannot_be_certified_has_no_bound() -> None:
    """Catches another accountant's number in its place."""
    hardly_any_noise = dataclasses.replace(RUN, noise_multiplier=0.015)
    point = PrivacyCurve(hardly_any_noise, 1e-6).point(1e-6)
    assert point.epsilon_upper is None
    assert not point.is_certified


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(InputError, match=r"delta: expected a number in \(0, 1\)"):
        PrivacyCurve(RUN, delta)
