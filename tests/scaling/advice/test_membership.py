"""The membership advantage against the certified figure, and where it has a closed form."""

import math

import pytest

from dpscale.privacy.accounting.curve import PrivacyCurve
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.scaling.advice.membership import membership_advantage

SETTINGS = [
    (10**8, 10**6, 5_000, 2.0335),
    (10**8, 3_000, 100_000, 0.53),
    (10**6, 10_000, 300, 0.4),
    (60_000, 600, 400, 0.8),
    (10**5, 50_000, 20, 12.0),
]


@pytest.mark.parametrize(("dataset_size", "batch", "iterations", "noise"), SETTINGS)
def test_within_a_thousandth_of_the_certified_bounds(
    dataset_size: int, batch: int, iterations: int, noise: float
) -> None:
    mechanism = SubsampledGaussian(
        dataset_size=dataset_size,
        expected_batch_size=batch,
        iterations=iterations,
        noise_multiplier=noise,
    )
    certified = PrivacyCurve(mechanism, delta=1e-8).total_variation
    assert certified.lower is not None
    found = membership_advantage(batch / dataset_size, noise, iterations)
    assert 0.999 * certified.lower <= found <= 1.001 * certified.upper


@pytest.mark.parametrize("noise", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("iterations", [1, 100])
def test_full_batches_are_one_gaussian(noise: float, iterations: int) -> None:
    expected = math.erf(math.sqrt(iterations / 8) / noise)
    assert membership_advantage(1.0, noise, iterations) == pytest.approx(expected, rel=1e-9)
    if expected < 0.99:
        nearly = membership_advantage(1 - 1e-9, noise, iterations)
        assert nearly == pytest.approx(expected, rel=1e-3)


def test_one_step_that_a_record_rarely_joins() -> None:
    # One step's total variation is q erf(1/(√8 σ)).
    for q, noise in ((1e-2, 0.7), (1e-5, 1.5)):
        expected = q * math.erf(1 / (math.sqrt(8) * noise))
        assert membership_advantage(q, noise, 1) == pytest.approx(expected, rel=2e-2)


def test_more_noise_fewer_steps_and_rarer_sampling_tell_less() -> None:
    base = membership_advantage(0.01, 0.8, 500)
    assert membership_advantage(0.01, 0.9, 500) < base
    assert membership_advantage(0.01, 0.8, 400) < base
    assert membership_advantage(0.008, 0.8, 500) < base
