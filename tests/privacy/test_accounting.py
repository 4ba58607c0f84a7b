"""Epsilon by dp_accounting: published values, closed forms, grids that are fine enough."""

import dataclasses
import math

import pytest
from scipy.stats import norm

from dpscale.errors import InputError
from dpscale.privacy.accounting.pld import epsilon
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

DOCUMENTED = SubsampledGaussian(
    dataset_size=1000, expected_batch_size=100, iterations=512, noise_multiplier=3.0
)
SMALL = SubsampledGaussian(
    dataset_size=62_000, expected_batch_size=256, iterations=200, noise_multiplier=0.5
)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Closed form for one Gaussian mechanism (Balle and Wang 2018)."""
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


def test_documented_epsilon() -> None:
    # dp_accounting's own documented example: sigma 3, T 512, q 0.1, delta 1e-6.
    assert epsilon(DOCUMENTED, delta=1e-6) == pytest.approx(3.77, abs=0.005)


@pytest.mark.parametrize(("sigma", "iterations"), [(1.0, 1), (5.0, 10), (40.0, 100)])
def test_full_batches_are_one_gaussian(sigma: float, iterations: int) -> None:
    # q = 1: T steps are one Gaussian mechanism with mu = sqrt(T)/sigma.
    run = SubsampledGaussian(
        dataset_size=100, expected_batch_size=100, iterations=iterations, noise_multiplier=sigma
    )
    spent = epsilon(run, delta=1e-6)
    assert gaussian_delta(spent, math.sqrt(iterations) / sigma) == pytest.approx(1e-6, rel=0.02)


def test_coarse_grids_are_not_believed() -> None:
    # A fixed grid of 1e-4 gives 0.0144 here and 1e-3 gives 0.04; the truth is below 0.0133.
    run = SubsampledGaussian(
        dataset_size=10**6, expected_batch_size=10**4, iterations=1000, noise_multiplier=100.0
    )
    assert 0.012 < epsilon(run, delta=1e-8) < 0.0135


def test_nothing_taken_nothing_spent() -> None:
    assert epsilon(dataclasses.replace(SMALL, iterations=0), delta=1e-6) == 0.0


def test_epsilon_moves_the_right_way() -> None:
    base = epsilon(SMALL, delta=1e-6)
    assert epsilon(dataclasses.replace(SMALL, noise_multiplier=0.6), delta=1e-6) < base
    assert epsilon(dataclasses.replace(SMALL, iterations=400), delta=1e-6) > base
    assert epsilon(dataclasses.replace(SMALL, expected_batch_size=512), delta=1e-6) > base
    assert epsilon(SMALL, delta=1e-5) < base


def test_truncation_costs_privacy() -> None:
    # Catches: an accountant that is not told of the cap.
    capped = dataclasses.replace(SMALL, truncated_batch_size=272)
    assert epsilon(capped, delta=1e-6) > 1.5 * epsilon(SMALL, delta=1e-6)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"dataset_size": 0}, "dataset_size"),
        ({"expected_batch_size": 0}, "expected_batch_size"),
        ({"expected_batch_size": 70_000}, "expected_batch_size"),
        ({"iterations": -1}, "iterations"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"truncated_batch_size": 100}, "truncated_batch_size"),
        (
            {"truncated_batch_size": 300, "neighboring_relation": "add-or-remove"},
            "neighboring_relation",
        ),
    ],
)
def test_wrong_mechanism_is_refused(changes: dict[str, float], place: str) -> None:
    with pytest.raises(InputError, match=place):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan, -1e-6])
def test_wrong_delta_is_refused(delta: float) -> None:
    with pytest.raises(InputError, match="delta"):
        epsilon(SMALL, delta=delta)


def test_hopelessly_little_noise_is_refused_in_time() -> None:
    # Catches: a grid of gigabytes for an epsilon in the thousands.
    with pytest.raises(InputError, match="too little noise"):
        epsilon(dataclasses.replace(SMALL, noise_multiplier=1e-4), delta=1e-6)
