"""Epsilon and noise: published values, closed forms, and what calibration promises."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm

from dpscale.errors import InputError
from dpscale.privacy.accounting.calibration import (
    CAP_EFFECT,
    calibrate_noise_and_cap,
    calibrate_noise_multiplier,
    default_truncated_batch_size,
)
from dpscale.privacy.accounting.pld import epsilon
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier

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


def test_documented_noise() -> None:
    sigma = calibrate_noise_multiplier(
        target_epsilon=1.0,
        target_delta=1e-6,
        dataset_size=1000,
        expected_batch_size=100,
        iterations=512,
    )
    assert sigma == pytest.approx(9.66, abs=0.005)


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


def test_calibration_meets_the_target_tightly() -> None:
    sigma = calibrate_noise_multiplier(
        target_epsilon=4.0,
        target_delta=1e-6,
        dataset_size=62_000,
        expected_batch_size=256,
        iterations=200,
    )
    run = dataclasses.replace(SMALL, noise_multiplier=sigma)
    less = dataclasses.replace(SMALL, noise_multiplier=sigma * (1 - 3e-4))
    assert epsilon(run, delta=1e-6) <= 4.0 < epsilon(less, delta=1e-6)


def test_default_cap_is_the_least_that_hardly_costs() -> None:
    cap = default_truncated_batch_size(SMALL, delta=1e-6, multiple=16)
    free = epsilon(SMALL, delta=1e-6)

    def cost(cap: int) -> float:
        capped = dataclasses.replace(SMALL, truncated_batch_size=cap)
        return epsilon(capped, delta=1e-6) / free - 1

    assert cap % 16 == 0
    assert cost(cap) < CAP_EFFECT < cost(cap - 16)


def test_noise_and_cap_together_meet_the_target() -> None:
    both = calibrate_noise_and_cap(
        target_epsilon=8.0,
        target_delta=1e-5,
        dataset_size=62_000,
        expected_batch_size=256,
        iterations=100,
        microbatch_size=32,
    )
    run = SubsampledGaussian(
        dataset_size=62_000,
        expected_batch_size=256,
        iterations=100,
        noise_multiplier=both.noise_multiplier,
        truncated_batch_size=both.truncated_batch_size,
    )
    assert 7.99 < epsilon(run, delta=1e-5) <= 8.0


@pytest.mark.parametrize("target_epsilon", [1.0, 8.0])
@pytest.mark.parametrize(("batch", "iterations"), [(256, 200), (2000, 1000)])
def test_surrogate_is_near(target_epsilon: float, batch: int, iterations: int) -> None:
    # A surrogate that is far off makes recommend search in the wrong place.
    exact = calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=1e-6,
        dataset_size=10**5,
        expected_batch_size=batch,
        iterations=iterations,
    )
    near = surrogate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=1e-6,
        sampling_prob=np.array([batch / 10**5]),
        iterations=np.array([iterations]),
    )
    assert 0.98 < near[0] / exact < 1.26


def test_surrogate_is_exact_without_subsampling() -> None:
    # q = 1 and small mu: the closed form is the Gaussian mechanism itself.
    near = surrogate_noise_multiplier(
        target_epsilon=0.5, target_delta=1e-5, sampling_prob=1.0, iterations=10_000
    )
    mu = math.sqrt(10_000) / float(near)
    assert gaussian_delta(0.5, mu) == pytest.approx(1e-5, rel=1e-3)


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
