"""The surrogate is near the calibrated noise, in both of its regimes and between them."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from dpscale.privacy.accounting.calibration import calibrate_noise_multiplier
from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier

SIZE = 10**9


@pytest.mark.parametrize(
    ("target_epsilon", "target_delta", "batch", "iterations"),
    [
        (8.0, 1e-9, 10**5, 20_000),
        (1.0, 1e-6, 10**7, 1000),
        (0.1, 1e-12, 10**8, 300_000),
        (40.0, 1e-9, 10**7, 5000),
        (0.5, 1e-10, 10**3, 100),  # one participation
        (3.0, 1e-10, 2 * 10**4, 10_000),  # few
        (2.0, 1e-5, 3 * 10**6, 400),  # between
        (1.0, 1e-8, SIZE, 10),
        (1.0, 1e-8, 10**8, 1),
    ],
)
def test_within_two_percent(
    target_epsilon: float, target_delta: float, batch: int, iterations: int
) -> None:
    # A surrogate that is far off makes recommend search in the wrong place.
    exact = calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        dataset_size=SIZE,
        expected_batch_size=batch,
        iterations=iterations,
    )
    near = surrogate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        sampling_prob=batch / SIZE,
        iterations=iterations,
    )
    assert float(near) == pytest.approx(exact, rel=0.02)


def test_a_setting_does_not_depend_on_its_company() -> None:
    q, t = np.geomspace(1e-7, 1, 12)[:, None], np.geomspace(1, 1e6, 9).round()
    target = {"target_epsilon": 3.0, "target_delta": 1e-8}
    together = surrogate_noise_multiplier(**target, sampling_prob=q, iterations=t)
    assert together.shape == (12, 9)
    alone = [
        [float(surrogate_noise_multiplier(**target, sampling_prob=p, iterations=n)) for n in t]
        for p in q[:, 0]
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def test_noise_grows_with_steps_and_batches() -> None:
    q, t = np.geomspace(1e-7, 1, 60)[:, None], np.geomspace(1, 1e6, 60)
    noise = surrogate_noise_multiplier(
        target_epsilon=2.0, target_delta=1e-8, sampling_prob=q, iterations=t
    )
    assert np.isfinite(noise).all()
    # Up to the surrogate's error, where one regime meets the other.
    assert (np.diff(np.log(noise), axis=0) > -0.05).all()
    assert (np.diff(np.log(noise), axis=1) > -0.05).all()


def test_where_taking_part_is_forgiven_no_noise_is_asked_for() -> None:
    noise = surrogate_noise_multiplier(
        target_epsilon=2.0, target_delta=1e-3, sampling_prob=1e-9, iterations=100
    )
    assert float(noise) == 0.01


def test_full_batches_are_one_gaussian() -> None:
    near = surrogate_noise_multiplier(
        target_epsilon=0.5, target_delta=1e-5, sampling_prob=1.0, iterations=10_000
    )
    mu = math.sqrt(10_000) / float(near)
    delta = norm.cdf(mu / 2 - 0.5 / mu) - math.exp(0.5) * norm.cdf(-mu / 2 - 0.5 / mu)
    assert delta == pytest.approx(1e-5, rel=0.05)
